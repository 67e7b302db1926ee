"""The experiments' client program, with real servers: what it got is exact, whatever became of them meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import sandbox
from testbed.processes import PATIENCE, Program, checked
from tests.root.http_client import Client, eventually, received, sha256
from topologies.two_servers import ADDRESSES, Running, running

pytestmark = pytest.mark.sandbox(shared=True)

RATE = 100.0
SEGMENT = 500_000
SERVERS = {name: ADDRESSES[name] for name in ("s1", "s2")}


class Scene:
    """Two servers and a client, without agents."""

    def __init__(self, net: Running, directory: Path) -> None:
        self.net, self.directory = net, directory
        self.numbers = itertools.count()
        self.servers: dict[str, Program] = {}
        for host in net.servers:
            self.serve(host.name)

    def serve(self, name: str, *options: str) -> None:
        """The file server on that host, again if it has been killed."""
        command = [sys.executable, "-m", "testbed.services.files", "--plain", *options]
        log = self.directory / f"files-{name}-{next(self.numbers)}.log"
        self.servers[name] = Program(self.net.net[name], [*command, "--directory", self.net.directory], log)
        self.servers[name].wait_for("listening")

    @contextlib.contextmanager
    def killed(self, name: str) -> Iterator[None]:
        self.servers[name].stop(signal.SIGKILL)
        try:
            yield
        finally:
            self.serve(name)

    @contextlib.contextmanager
    def silent(self, name: str) -> Iterator[None]:
        """The client hears nothing of the host, as if it were off."""
        route = ["route", "add", "blackhole", ADDRESSES["client"]]
        checked(self.net.net[name], "ip", *route)
        try:
            yield
        finally:
            checked(self.net.net[name], "ip", "route", "del", *route[2:])

    def client(self, *words: object, seconds: float = 60.0, begin: float = 0.0) -> Client:
        """A client program with this workload and these options."""
        return Client(self.net.client, self.directory, SERVERS, *words, seconds=seconds, begin=begin)

    def expected(self, size: int, path: str = "big") -> str:
        """Hash of the first `size` bytes."""
        return sha256(self.net.directory / path, size)

    def flowing(self, name: str, size: int = 1_000_000) -> None:
        """Wait until a client has got so many bytes from there."""
        eventually(lambda: received(self.net.client, ADDRESSES[name]) > size)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    if not sandbox.inside():
        yield None
        return
    with running(agents=False, bw=RATE, rtt=10, big=150_000_000) as net:
        yield Scene(net, tmp_path_factory.mktemp("client"))


def froms(told: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(each["from"], each["to"], each["why"]) for each in told["decisions"]]


def test_a_download_ends_at_its_time_and_what_it_read_is_exact(scene: Scene) -> None:
    client = scene.client("download", seconds=1)
    told = client.wait()
    assert told["exit"] == 0 and told["sha256"] == scene.expected(told["bytes"])
    assert told["decisions"] == [] and [each["server"] for each in told["connections"]] == ["s1"]
    assert abs(told["ended_ns"] / 1e9 - client.end_at) < 1.0
    seconds = (told["ended_ns"] - told["started_ns"]) / 1e9
    # Of the link; the machine may be busy.
    assert told["bytes"] * 8 / 1e6 > 0.5 * RATE * seconds
    assert told["cpu_s"] < 0.5 * seconds + 2, "too dear for two cores"


def test_it_begins_at_its_time(scene: Scene) -> None:
    start_at = time.monotonic() + 3 * PATIENCE
    client = scene.client("download", begin=start_at)
    scene.flowing("s1")
    told = client.end()
    assert 0 <= told["started_ns"] / 1e9 - start_at < 1.0
    assert client.rows("deliveries").monotonic_ns.min() > start_at * 1e9


def test_a_time_that_is_over_is_an_error(scene: Scene) -> None:
    told = scene.client("download", begin=time.monotonic() + 1000).wait()
    assert told["exit"] == 1 and "--end-at" in told["error"] and told["connections"] == []


def test_whoever_stays_ends_with_its_server(scene: Scene) -> None:
    client = scene.client("download")
    scene.flowing("s1")
    with scene.killed("s1"):
        told = client.wait()
    assert told["exit"] == 1 and told["error"].startswith("10.0.0.1:80: ")
    assert told["sha256"] == scene.expected(told["bytes"]) and told["bytes"] > 1_000_000


def test_a_client_with_a_policy_goes_on_at_the_second_server_when_the_first_dies(scene: Scene) -> None:
    client = scene.client("download", "--policy", "manual")
    scene.flowing("s1")
    with scene.killed("s1"):
        scene.flowing("s2")
        told = client.end()
    assert told["exit"] == 0 and told["sha256"] == scene.expected(told["bytes"])
    assert froms(told) == [("s1", "s2", "error")]
    assert set(client.rows("deliveries").server) == {"s1", "s2"}


def test_mptcp_where_it_is_not_allowed_is_one_clear_error(scene: Scene) -> None:
    told = scene.client("download", "--connect", "mptcp").wait()
    assert told["exit"] == 1 and "sysctl net.mptcp.enabled=1" in told["error"]


def test_a_client_with_a_policy_leaves_when_that_says_so(scene: Scene) -> None:
    at = time.monotonic() + 2.5 * PATIENCE
    client = scene.client("download", "--policy", f"oracle:at={at}")
    scene.flowing("s2")
    told = client.end()
    assert told["exit"] == 0 and told["sha256"] == scene.expected(told["bytes"])
    assert froms(told) == [("s1", "s2", "policy")]
    assert 0 <= told["decisions"][0]["monotonic_ns"] / 1e9 - at < 0.5
    by_server = client.rows("deliveries").groupby("server").bytes.sum()
    assert by_server.s1 > 1_000_000 and by_server.s2 > 1_000_000


def test_the_operator_moves_it_from_a_server_that_is_silent(scene: Scene) -> None:
    client = scene.client("download", "--policy", "manual")
    scene.flowing("s1")
    with scene.silent("s1"):
        client.program.process.send_signal(signal.SIGUSR1)
        scene.flowing("s2")
        told = client.end()
    assert told["exit"] == 0 and told["sha256"] == scene.expected(told["bytes"])
    assert froms(told) == [("s1", "s2", "operator")]


def test_a_server_that_does_not_answer_is_passed_over(scene: Scene) -> None:
    with scene.silent("s1"):
        client = scene.client("download", "--policy", "manual", "--connect-timeout", 0.5)
        scene.flowing("s2")
        told = client.end()
    assert told["exit"] == 0 and told["sha256"] == scene.expected(told["bytes"]) and told["bytes"] > 1_000_000
    assert froms(told) == [("s1", "s2", "error")]
    assert [each["server"] for each in told["connections"]] == ["s2"]


def test_it_gives_up_when_there_is_no_server_any_more(scene: Scene) -> None:
    with scene.killed("s1"), scene.killed("s2"):
        told = scene.client("download", "--policy", "manual", "--retries", 4).wait()
    assert told["exit"] == 1 and "Connection refused" in told["error"] and len(told["decisions"]) == 4


def test_requests_go_on_at_the_second_server(scene: Scene) -> None:
    client = scene.client("requests", "--path", "/small", "--think", 0.01, "--policy", "manual")
    scene.flowing("s1", 15 * 1000)
    with scene.killed("s1"):
        scene.flowing("s2", 15 * 1000)
        told = client.end()
    assert told["exit"] == 0 and told["sha256"] == scene.expected(told["bytes"], "small")
    assert froms(told) == [("s1", "s2", "error")] and len(told["connections"]) == 2
    requests = client.rows("requests")
    done = requests.dropna()
    assert set(done.server) == {"s1", "s2"} and len(requests) > 20
    assert len(requests) - len(done) <= 1 and (done.bytes == 1000).all()
    assert (done.asked_ns < done.first_byte_ns).all() and (done.first_byte_ns <= done.done_ns).all()


def test_a_stream_goes_on_at_the_second_server_without_rebuffering(scene: Scene) -> None:
    media = ["--rate", 20, "--segment", 0.2, "--buffer", 2]
    client = scene.client("stream", *media, "--policy", "manual")
    scene.flowing("s1")
    with scene.killed("s1"):
        scene.flowing("s2", 15 * SEGMENT)
        told = client.end()
    assert told["exit"] == 0 and told["sha256"] == scene.expected(told["bytes"])
    assert froms(told) == [("s1", "s2", "error")]
    playout = client.rows("playout")
    assert list(playout.segment) == list(range(len(playout))) and len(playout) > 15
    done = playout.dropna()
    assert len(playout) - len(done) <= 1 and (client.rows("requests").dropna().bytes == SEGMENT).all()
    assert (done.done_ns - done.wanted_at_ns).max() < 0.5e9


def test_sigterm_ends_it_with_its_files(scene: Scene) -> None:
    client = scene.client("download")
    scene.flowing("s1")
    told = client.end()
    assert told["exit"] == 0 and told["sha256"] == scene.expected(told["bytes"]) and told["bytes"] > 1_000_000
    assert told["ended_ns"] / 1e9 < client.end_at - 30


@pytest.mark.parametrize(
    ("path", "policy", "why"),
    [
        ("/medium", [], "/medium came to its end after 1000000 bytes"),
        ("/medium", ["--policy", "manual"], "/medium came to its end after 1000000 bytes"),
        ("/nothing", ["--policy", "manual"], "/nothing: status 404"),
        ("/big", ["--policy", "nonsense"], "no policy 'nonsense'"),
    ],
)
def test_what_cannot_last_is_an_error(scene: Scene, path: str, policy: list[str], why: str) -> None:
    told = scene.client("download", "--path", path, *policy).wait()
    assert told["exit"] == 1 and told["error"].startswith(why)
