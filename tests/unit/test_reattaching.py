"""The library's side of an agent's death, with agents made by hand on the local socket's address."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from mtcp import api, listening, reattaching
from mtcp.agent import local
from mtcp.api import Connection
from mtcp.capsule import Capsule, Fence
from mtcp.errors import ConnectionMigrated
from mtcp.lifeline import Lifeline
from mtcp.listening import Listener

pytestmark = pytest.mark.unit
_numbers = count()


class Agent:
    """Takes channels and keeps what comes through them."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.bind(local.ADDRESS)
        self._sock.listen()
        self._sock.settimeout(5)
        self.channels: list[socket.socket] = []
        self._fds: list[int] = []

    def next(self) -> tuple[dict[str, Any], list[int]]:
        """The first packet of the next channel."""
        channel, _ = self._sock.accept()
        channel.settimeout(5)
        self.channels.append(channel)
        message, fds = local.receive(channel)
        self._fds += fds
        return message, fds

    def die(self) -> None:
        for fd in self._fds:
            os.close(fd)
        for sock in (*self.channels, self._sock):
            sock.close()
        self._fds, self.channels = [], []


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ADDRESS", f"\0mtcp-test-{os.getpid()}-{next(_numbers)}")
    monkeypatch.setattr(api, "_reattaching", reattaching.Reattaching())


class Served:
    """A connection whose agent has ended."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            sock, peer = listener.accept()
        self.capsule = Capsule.create(64, 32)
        watched, held = os.pipe()
        self.connection = Connection(sock, (sock.getsockname(), peer), self.capsule, Lifeline(held))
        self.connection.settimeout(5)
        os.close(watched)

    def close(self) -> None:
        self.connection.close()
        self.client.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def receiving(connection: Connection) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(connection.recv(10))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def test_who_waits_in_recv_attaches_again_and_again(served: Served) -> None:
    thread, results = receiving(served.connection)
    for _ in range(2):
        agent = Agent()
        message, (sock, capsule, _) = agent.next()
        assert message == {"op": "attach", "again": True}
        assert os.fstat(capsule).st_ino == served.capsule.id
        assert os.fstat(sock).st_ino == os.fstat(served.connection.fileno()).st_ino
        until = time.monotonic() + 5
        while served.connection.is_lost:
            assert time.monotonic() < until
            time.sleep(0.001)
        agent.die()
    served.client.sendall(b"in")
    thread.join(5)
    assert results == [b"in"]


def test_who_never_waits_attaches_again(served: Served) -> None:
    agent, until = Agent(), time.monotonic() + 5
    while served.connection.is_lost:
        served.connection.send(b"x")
        assert time.monotonic() < until
    assert agent.next()[0]["op"] == "attach"
    agent.die()


def test_a_fenced_connection_that_is_refused_ends(served: Served) -> None:
    served.capsule.fence = Fence.FENCED
    thread, results = receiving(served.connection)
    agent = Agent()
    agent.next()
    local.send(agent.channels[0], {"op": "refused", "capsule": served.capsule.id, "error": "no"})
    os.close(agent._fds.pop())
    thread.join(5)
    assert isinstance(results[0], ConnectionMigrated)
    agent.die()


def test_one_that_has_moved_is_not_attached_again(served: Served) -> None:
    served.capsule.fence = Fence.MIGRATED
    assert not served.connection.is_lost
    assert api.reattach()


def test_a_closed_one_neither(served: Served) -> None:
    served.connection.close()
    assert not served.connection.is_lost


def test_a_listener_listens_again() -> None:
    """Its descriptor becomes readable for it, whatever event loop waits."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    ours, agents = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with Listener(sock, ours, 100, 200) as listener:
        agents.close()
        agent = Agent()
        asked: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: asked.append(agent.next()[0]))
        thread.start()
        until = time.monotonic() + 5
        while not asked and time.monotonic() < until:
            assert select.select([listener], [], [], 5)[0]
            with pytest.raises(BlockingIOError):
                listener.accept_nowait()
            thread.join(0.01)
        expected = {"op": "listen", "log_size": 100, "state_max": 200}
        assert asked == [expected]
        local.send(agent.channels[0], {"ok": True})
        while select.select([listener], [], [], 0.3)[0]:  # its answer, and a last look
            assert time.monotonic() < until
            with pytest.raises(BlockingIOError):
                listener.accept_nowait()
        agent.die()


def test_backoff_is_bounded() -> None:
    backoff, waits = reattaching.Backoff(), []
    for _ in range(6):
        backoff.failed()
        waits.append(backoff.left())
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0], abs=0.05)
    backoff.succeeded()
    assert backoff.left() == pytest.approx(0.1, abs=0.05)


def test_a_listener_of_a_child_is_its_own() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    with listening.Listener(sock, None, 100, 200) as listener:
        before = listener.fileno()
        pid = os.fork()
        if pid == 0:
            listener.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert listener.fileno() == before
        with socket.create_connection(sock.getsockname()[:2]):
            assert select.select([listener], [], [], 5)[0]
