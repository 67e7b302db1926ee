"""Load and attacks on a server: they do what they say, within their bounds, and say what they did."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from testbed import sandbox
from testbed.generators import Generator
from testbed.load.requests import arrivals
from testbed.nodes import MtcpHost
from testbed.processes import CommandError, Program, checked
from topologies.pool import running

pytestmark = pytest.mark.sandbox(shared=True)

BACKLOG = 16
LISTEN = f"""
import socket, time
listener = socket.create_server(("", 81), backlog={BACKLOG})
print("listening", flush=True)
time.sleep(1000)
"""


@dataclass
class Scene:
    server: MtcpHost
    client: MtcpHost
    files: Program
    """On port 80; on port 81 is a service that never accepts."""
    logs: Path

    def generator(self, module: str, *words: object) -> Generator:
        log = self.logs / f"{len(list(self.logs.iterdir()))}.log"
        return Generator(self.client, f"testbed.{module}", *words, log=log)

    def counter(self, name: str) -> int:
        """Of the server's TCP."""
        lines = checked(self.server, "cat", "/proc/net/netstat", "/proc/net/snmp").splitlines()
        rows = [line.split() for line in lines]
        both = next((names, values) for names, values in itertools.pairwise(rows) if name in names)
        return int(both[1][both[0].index(name)])

    def sockets(self, *words: str) -> list[list[str]]:
        """What ss shows of the server's."""
        return [line.split() for line in checked(self.server, "ss", "-Htn", *words).splitlines()]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    if not sandbox.inside():
        yield None
        return
    logs = tmp_path_factory.mktemp("logs")
    with running(1, 1, agents=False, big=10_000_000, logs=logs) as network:
        (server,) = network.servers
        serve = [sys.executable, "-m", "testbed.services.files", "--plain", "--directory", network.directory]
        files = Program(server, serve, logs / "files.log")
        idle = Program(server, [sys.executable, "-c", LISTEN], logs / "listen.log")
        for program in (files, idle):
            program.wait_for("listening")
        yield Scene(server, network.client, files, logs)


def eventually(condition: Callable[[], bool], timeout: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_syn_flood_fills_the_queue_of_its_victim(scene: Scene) -> None:
    cookies, full = scene.counter("SyncookiesSent"), scene.counter("TCPReqQFullDoCookies")
    flood = scene.generator("attack", "syn", "10.0.0.1:81", "--rate", 20_000, "--seconds", 30)
    assert eventually(lambda: scene.counter("SyncookiesSent") > cookies + 1000)
    assert scene.counter("TCPReqQFullDoCookies") > full
    waiting = scene.sockets("state", "syn-recv", "sport = :81")
    assert 0 < len(waiting) <= BACKLOG + 1
    assert all(128 < int(words[3].rpartition(":")[0].rpartition(".")[2]) < 255 for words in waiting)
    report = flood.finish()
    assert report["sent"] > 1000 and report["seconds"] < 30
    assert report["rate"] == pytest.approx(report["sent"] / report["seconds"], rel=0.01)


def test_a_flood_sends_as_many_as_it_may_and_they_arrive(scene: Scene) -> None:
    def received() -> int:
        return int(checked(scene.server, "sh", "-c", "grep s1-eth0 /proc/net/dev").partition(":")[2].split()[1])

    before = received()
    words = ["10.0.0.1:9", "--rate", 50_000, "--count", 3000, "--sources", "own"]
    report = scene.generator("attack", "syn", *words).result()
    assert (report["sent"], report["dropped"]) == (3000, 0)
    assert eventually(lambda: received() >= before + 3000)


@pytest.mark.parametrize("words", [["syn", "--rate", "1e9"], ["slow", "--connections", "1000000"], ["requests"]])
def test_beyond_bounds_and_testbed_nothing_is_sent(scene: Scene, words: list[str]) -> None:
    target = "192.0.2.1:80" if len(words) == 1 else "10.0.0.1:81"
    with pytest.raises(CommandError, match=r"no more than|no address of the testbed"):
        scene.generator("attack", words[0], target, *words[1:])


def test_attacks_refuse_the_networks_of_switches(scene: Scene) -> None:
    for module in ("attack", "load"):
        assert_refused(f"testbed.{module}")


def assert_refused(module: str, **environment: str) -> None:
    word = "syn" if module.endswith("attack") else "open"
    command = [sys.executable, "-m", module, word, "10.0.0.1:80", "--seconds", "1"]
    run = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout == ""
    assert "hosts of the testbed only" in run.stderr and len(run.stderr.splitlines()) == 1


def test_requests_arrive_as_drawn_whatever_the_service_does(scene: Scene, tmp_path: Path) -> None:
    path, rate, seconds = tmp_path / "rows.parquet", 60, 1.2
    words = ["10.0.0.1:80", "--path", "/small", "--rate", rate, "--seconds", seconds, "--seed", 5, "--rows", path]
    load = scene.generator("load", "open", *words)
    with stopped(scene.files):
        time.sleep(0.7)
    report, rows = load.result(), pd.read_parquet(path)
    drawn = list(arrivals(rate, seconds, seed=5))
    assert (report["requests"], report["ok"], report["not_made"]) == (len(drawn), len(drawn), 0)
    instants = rows.time_s - rows.time_s[0]
    assert list(instants) == pytest.approx([instant - drawn[0] for instant in drawn], abs=1e-6)
    # What waited for the service is seen in all who came meanwhile, not only in the first.
    assert rows.latency_ms.max() > 600
    assert (rows.latency_ms > 200).sum() > 0.2 * rate
    assert (rows.latency_ms >= rows.late_ms).all() and (rows.late_ms >= 0).all()
    assert (rows.bytes == 1000).all() and (rows.status == 200).all()


@contextlib.contextmanager
def stopped(program: Program) -> Iterator[None]:
    """It and what it started stands still."""
    os.kill(program.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(program.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("keep", [True, False])
def test_clients_in_closed_loop_wait_for_their_answers(scene: Scene, tmp_path: Path, keep: bool) -> None:
    path, opened, segments = tmp_path / "rows.csv", scene.counter("PassiveOpens"), scene.counter("InSegs")
    words = ["10.0.0.1:80", "--path", "/small", "--clients", 5, "--think", 0.02, "--seconds", 60, "--rows", path]
    load = scene.generator("load", "closed", *words, *(["--keep"] if keep else []))
    assert eventually(lambda: scene.counter("InSegs") > segments + 200)
    report = load.finish()
    rows = pd.read_csv(path)
    assert report["requests"] == report["ok"] == len(rows) > 5 and set(rows.client) == set(range(5))
    for _, mine in rows.groupby("client"):
        ends = mine.time_s + mine.latency_ms / 1000
        assert (mine.time_s.iloc[1:].to_numpy() >= ends.iloc[:-1].to_numpy() - 1e-6).all()
    assert scene.counter("PassiveOpens") - opened == (5 if keep else len(rows))


@pytest.mark.parametrize(
    ("module", "words", "made"),
    [
        ("load", ["open", "10.0.0.1:80", "--path", "/small", "--rate", 100], "requests"),
        ("load", ["closed", "10.0.0.1:80", "--path", "/small", "--clients", 2], "requests"),
        ("attack", ["syn", "10.0.0.1:9", "--rate", 1000, "--payload", 1000, "--sources", "own"], "sent"),
    ],
)
def test_what_is_to_begin_later_is_ready_and_waits(scene: Scene, module: str, words: list[object], made: str) -> None:
    before = scene.counter("InSegs")
    generator = scene.generator(module, *words, "--wait", "--seconds", 0.5)
    time.sleep(0.7)
    assert generator.process.poll() is None and scene.counter("InSegs") == before
    generator.begin()
    report = generator.result()
    assert report["seconds"] == pytest.approx(0.5, abs=0.4)
    assert report[made] > 0 and scene.counter("InSegs") > before


def test_burners_begin_in_steps(scene: Scene) -> None:
    words = ["burn", "--processes", 4, "--steps", 2, "--every", 60, "--share", 0.1, "--seconds", 100]
    burners, idle = scene.generator("load", *words), scene.generator("load", *words, "--wait")
    time.sleep(1)
    report = burners.finish()
    assert 0 < report["cores"] < 0.25 and report["asked_cores"] == 0.4
    assert idle.finish()["cores"] == 0, "it has not been begun"


def test_a_missing_file_is_a_failure_of_the_request(scene: Scene) -> None:
    report = scene.generator("load", "open", "10.0.0.1:80", "--path", "/none", "--seconds", 0.5).result()
    assert report["failed"] == report["requests"] > 0


def test_held_connections_fill_the_accept_queue(scene: Scene) -> None:
    before = scene.counter("ListenOverflows")
    load = scene.generator("load", "hold", "10.0.0.1:81", "--connections", 60, "--seconds", 30)
    assert eventually(lambda: scene.sockets("-l", "sport = :81")[0][1] == str(BACKLOG + 1))
    assert eventually(lambda: scene.counter("ListenOverflows") > before)
    report = load.finish()
    assert BACKLOG < report["held_most"] <= report["started"] <= 60


def test_slow_requests_occupy_a_service(scene: Scene) -> None:
    attack = scene.generator("attack", "slow", "10.0.0.1:80", "--connections", 50, "--every", 0.2, "--seconds", 30)
    established = ["state", "established", "sport = :80"]
    assert eventually(lambda: len(scene.sockets(*established)) >= 50)
    report = attack.finish()
    assert (report["opened"], report["held_at_end"], report["ended_by_service"]) == (50, 50, 0)
    assert eventually(lambda: not scene.sockets(*established))


def test_heavy_requests(scene: Scene) -> None:
    report = scene.generator("attack", "requests", "10.0.0.1:80", "--path", "/big", "--rate", 20, "--seconds", 2)
    found = report.result()
    # An attack does not wait for the last answers.
    assert 0 < found["ok"] <= found["requests"] and found["bytes"] == 10_000_000 * found["ok"]
