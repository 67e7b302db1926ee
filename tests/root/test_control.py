"""Control connections of live agents, and what others try on them.

The pool has a third server, whose host is never started: its credentials are those of an enemy within.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mtcp import pki
from mtcp.address import Endpoint, FourTuple
from mtcp.agent import control, local
from mtcp.errors import Reason
from mtcp.wire.frames import HEADER, MAGIC, MAX_BODY, Done, FrameReader, Release, StateReject, StateRequest, encode
from testbed import sandbox
from testbed.namespaces import enter_network_of
from testbed.pool import Pool, Server, pool_toml
from testbed.processes import checked
from tests.root.scene import Outcome, Scene
from topologies.two_servers import ADDRESSES, CONTROL, CONTROL_PORT, running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 300)]

S1 = (CONTROL["s1"], CONTROL_PORT)
S3 = Server("s3", "10.0.0.3", f"10.1.0.3:{CONTROL_PORT}")
OLD = FourTuple(Endpoint(ADDRESSES["s1"], 80), Endpoint(ADDRESSES["client"], 50000))
TO_S2, TO_S3 = (FourTuple(Endpoint(ip, 80), OLD.remote) for ip in (ADDRESSES["s2"], S3.service))
REQUEST = StateRequest(OLD, TO_S2, 1, 1, b"mac mac ")
LONG = 10.0


class Yard:
    """The pool, and a thread on s2's host from which others dial s1."""

    def __init__(self, scene: Scene, pool: Pool, threads: dict[str, ThreadPoolExecutor]) -> None:
        self.scene, self.pool, self.threads = scene, pool, threads

    def status(self, host: str) -> dict[str, bool]:
        """Whom the agent there has reached."""
        status: dict[str, bool] = self.at(host, lambda: local.request({"op": "status"}))["control"]
        return status

    def at(self, host: str, do: Callable[[], Any]) -> Any:
        return self.threads[host].submit(do).result(30)

    def log_of(self, name: str) -> str:
        return (self.scene.directory / f"{name}.log").read_text()

    @contextlib.contextmanager
    def hears(self, line: str, agent: str = "agent-s1") -> Iterator[None]:
        """What is done meanwhile makes the agent say `line`, in one."""
        before = len(self.log_of(agent))
        yield
        wait_for(lambda: any(line in said for said in self.log_of(agent)[before:].splitlines()), f"{agent}: {line}")
        assert "Traceback" not in self.log_of(agent)[before:]

    def connected(self) -> bool:
        return self.status("s1")["s2"] and self.status("s2")["s1"]

    def move(self) -> None:
        """A connection moves to s2, as ever."""
        scene = self.scene
        scene.known = frozenset(scene.connections())
        program = scene.client("curl", "-sS", "--limit-rate", "100k", "-o", "/dev/null", "http://s1/big")
        [connection] = scene.wait_for_connections()
        outcome: Outcome = scene.move(connection, ADDRESSES["s2"])
        program.process.kill()
        program.process.wait()
        assert outcome["outcome"] == "moved", outcome

    @contextlib.contextmanager
    def as_server(self, name: str, directory: Path | None = None) -> Iterator[ssl.SSLSocket]:
        """A connection to s1 with the credentials of `name`, from `directory` (default: the pool's)."""
        context = pki.client_context(directory or self.pool.credentials, name)
        with self.dial() as plain, context.wrap_socket(plain, server_hostname="s1") as sock:
            yield sock

    def dial(self) -> socket.socket:
        """From s2's host to s1's agent."""
        sock: socket.socket = self.at("s2", lambda: socket.create_connection(S1, timeout=LONG))
        return sock


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, f"not in {LONG} s: {what}"
        time.sleep(0.01)


def is_over(sock: socket.socket) -> bool:
    """Whether the other side closes, whatever it says before."""
    sock.settimeout(LONG)
    try:
        while sock.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("control")
    servers = [*(Server(name, ADDRESSES[name], f"{CONTROL[name]}:{CONTROL_PORT}") for name in CONTROL), S3]
    with contextlib.ExitStack() as stack:
        net = stack.enter_context(running(agents=False, big=20_000_000, logs=directory))
        net.pool = stack.enter_context(Pool(servers, directory))
        net.pool.start([net.client], net.servers, net.directory)
        scene = stack.enter_context(Scene.of(net, directory))
        threads = {
            host.name: stack.enter_context(ThreadPoolExecutor(1, initializer=enter_network_of, initargs=(host.pid,)))
            for host in net.servers
        }
        yard = Yard(scene, net.pool, threads)
        wait_for(yard.connected, "the agents connect")
        yield yard


@pytest.fixture
def yard(made: Yard | None) -> Iterator[Yard | None]:
    """The agents have not lost each other, and connections move, whatever the test did."""
    if made is None:
        yield None
        return
    established = connections(made)
    assert established
    yield made
    assert connections(made) >= established, "the agents' own connections are others"
    assert made.connected()
    made.move()


def connections(yard: Yard) -> set[str]:
    """Local and remote address of the agents' own connections, from s1."""
    out, _, _ = yard.scene.net.s1.pexec(
        ["ss", "-Htnp", "state", "established", f"( sport = {CONTROL_PORT} or dport = {CONTROL_PORT} )"]
    )
    return {" ".join(line.split()[2:4]) for line in out.splitlines()} - {""}


@pytest.fixture
def other(yard: Yard | None, tmp_path: Path) -> Path | None:
    """A pool of the same names with a CA of its own."""
    if yard is None:
        return None
    pki.initialise(tmp_path / "other", ["s1", "s2", "s3"])
    return tmp_path / "other"


def anyone(yard: Yard) -> ssl.SSLContext:
    """Trusts the pool's CA, and presents nothing."""
    context = ssl.create_default_context(cafile=yard.pool.credentials / "ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_agents_connect_and_say_so(yard: Yard) -> None:
    assert yard.status("s1") == {"s2": True, "s3": False}
    assert yard.status("s2") == {"s1": True, "s3": False}
    assert "control connection from s2" in yard.log_of("agent-s1")


def test_no_certificate(yard: Yard) -> None:
    with yard.hears("refused: TLS: peer did not return a certificate"), yard.dial() as plain:
        assert is_over(anyone(yard).wrap_socket(plain, server_hostname="s1"))


def test_certificate_of_another_ca(yard: Yard, other: Path) -> None:
    """Its holder trusts us: only we refuse."""
    context = anyone(yard)
    context.load_cert_chain(other / "s2.pem", other / "s2.key")
    with yard.hears("refused: certificate refused: "), yard.dial() as plain:
        assert is_over(context.wrap_socket(plain, server_hostname="s1"))


def test_expired_certificate(yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "expired"
    shutil.copytree(yard.pool.credentials, directory)
    monkeypatch.setattr(pki, "SERVER_LIFETIME", timedelta(days=-1))
    monkeypatch.setattr(pki, "CLOCK_SKEW", timedelta(days=2))
    pki.initialise(directory, ["s3"], renew=True)
    context = anyone(yard)
    context.load_cert_chain(directory / "s3.pem", directory / "s3.key")
    with yard.hears("refused: certificate refused: certificate has expired"), yard.dial() as plain:
        assert is_over(context.wrap_socket(plain, server_hostname="s1"))


@pytest.mark.parametrize("name", ["s9", "s1"])
def test_a_server_that_is_not_of_the_pool_file_or_ourselves(yard: Yard, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "more"
    shutil.copytree(yard.pool.credentials, directory)
    pki.initialise(directory, ["s9"])
    line = f"refused: the certificate is of {name}, who is not expected"
    with yard.hears(line), yard.as_server(name, directory) as sock:
        assert is_over(sock)


def test_plain_tcp(yard: Yard) -> None:
    for data in (encode(REQUEST), b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100_000):
        with yard.hears("refused: TLS: "), yard.dial() as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
            assert is_over(sock)


def test_tls_1_2(yard: Yard) -> None:
    context = anyone(yard)
    context.load_cert_chain(yard.pool.credentials / "s3.pem", yard.pool.credentials / "s3.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with yard.hears("refused: TLS: unsupported protocol"), yard.dial() as plain, pytest.raises(OSError):
        context.wrap_socket(plain, server_hostname="s1")


def test_garbage_after_the_handshake(yard: Yard) -> None:
    line = "control connection with s3: not an M-TCP control connection; closed"
    with yard.hears(line), yard.as_server("s3") as sock:
        sock.send(b"garbage" * 100)
        assert is_over(sock)


def test_garbage_in_place_of_tls_records(yard: Yard) -> None:
    with yard.as_server("s3") as sock:
        beneath = socket.socket(fileno=os.dup(sock.fileno()))
        beneath.send(b"garbage" * 100)
        assert is_over(beneath)
        beneath.close()


def test_oversized_frame(yard: Yard) -> None:
    line = f"control connection with s3: frame of {MAX_BODY + 1} bytes, at most {MAX_BODY} are taken; closed"
    with yard.hears(line), yard.as_server("s3") as sock:
        sock.send(HEADER.pack(MAGIC, 1, 1, 2, MAX_BODY + 1))
        assert is_over(sock)


def test_handshake_that_takes_its_time(yard: Yard) -> None:
    """Of as many as there is place for; the agents' own connections and new ones do not suffer."""
    start = time.monotonic()
    with contextlib.ExitStack() as stack, yard.hears("refused: SSL handshake is taking longer"):
        slow = [stack.enter_context(yard.dial()) for _ in range(control.MAX_PENDING)]
        for sock in slow:
            sock.send(b"\x16\x03\x01")
        with yard.hears("refused: too many others wait"), yard.as_server("s3") as sock:
            sock.send(encode(Done(OLD, 1, b"mac mac ")))
            assert time.monotonic() - start < control.HANDSHAKE
        assert all(is_over(sock) for sock in slow)
        assert time.monotonic() - start < 2 * control.HANDSHAKE


def test_request_for_another_server(yard: Yard) -> None:
    line = "STATE_REQUEST from s3: it asks for a move to 10.0.0.2:80; refused"
    with yard.hears(line), yard.as_server("s3") as sock:
        assert ask(sock, REQUEST) == [StateReject(OLD, 1, REQUEST.mac, Reason.NOT_ALLOWED)]


def test_outcome_from_a_server_that_was_not_given_the_connection(yard: Yard) -> None:
    """The connection is on s1: neither s3's DONE nor its RELEASE does anything to it."""
    scene = yard.scene
    scene.known = frozenset(scene.connections())
    program = scene.client("curl", "-sS", "--limit-rate", "100k", "-o", "/dev/null", "http://s1/big")
    [connection] = scene.wait_for_connections()
    old = FourTuple(OLD.local, Endpoint.parse(connection))
    for outcome in (Done(old, 0, bytes(8)), Release(old, 0, bytes(8), bytes(8))):
        line = f"{outcome.type.name} from s3: {old} was not given to it; dropped"
        with yard.hears(line), yard.as_server("s3") as sock:
            sock.send(encode(outcome))
    assert scene.move(connection, ADDRESSES["s2"])["outcome"] == "moved"
    for outcome in (Done(old, 1, bytes(8)), Release(old, 1, bytes(8), bytes(8))):
        line = f"{outcome.type.name} from s3: {old} was not given to it; dropped"
        with yard.hears(line), yard.as_server("s3") as sock:
            sock.send(encode(outcome))
    assert scene.connections()[connection]["current"] == "10.0.0.2:80"
    program.process.kill()
    program.process.wait()


def test_a_peer_that_does_not_read(yard: Yard) -> None:
    """Requests without end, whose answers are never read."""
    requests = encode(REQUEST) * 2000
    with yard.as_server("s3") as sock:
        sock.settimeout(0.5)
        sent, deadline = 0, time.monotonic() + 3 * LONG
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    sent += sock.send(requests)
        assert time.monotonic() < deadline, f"still there after {sent} bytes"


def test_one_connection_of_each_peer(yard: Yard) -> None:
    with yard.as_server("s3") as first, yard.as_server("s3") as second:
        assert is_over(first)
        assert len(ask(second, REQUEST)) == 1


def test_agent_without_credentials(made: Yard, tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    file.write_text(pool_toml(made.pool.servers))
    mtcp = Path(sys.executable).with_name("mtcp")
    command = [mtcp, "agent", "--name", "s1", "--pool", file, "--interface", "lo"]
    out, err, status = made.scene.net.net["sw1"].pexec([str(word) for word in command])
    assert status == 1
    assert (out + err).splitlines() == [
        f"mtcp: s1 has no credentials in {tmp_path / 'pool.d'}: run `mtcp pool init` and copy them there"
    ]


def test_control_network_is_cut_and_comes_back(made: Yard) -> None:
    """Last: the connections of afterwards are others."""
    s1 = made.scene.net.s1
    before = connections(made)
    checked(s1, "ip", "link", "set", s1.intf("s1-eth1").name, "down")
    try:
        wait_for(lambda: not made.status("s1")["s2"] and not made.status("s2")["s1"], "the agents miss each other")
    finally:
        checked(s1, "ip", "link", "set", s1.intf("s1-eth1").name, "up")
    wait_for(made.connected, "the agents connect again")
    assert connections(made).isdisjoint(before)
    made.move()


def ask(sock: ssl.SSLSocket, request: StateRequest) -> list[Any]:
    sock.settimeout(LONG)
    sock.sendall(encode(request))
    return list(FrameReader().feed(sock.recv(4096)))
