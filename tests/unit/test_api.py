"""The server application's Connection on loopback, with a capsule and an "agent" made by hand."""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mtcp.api import Connection
from mtcp.capsule import Capsule, Fence, Snapshot
from mtcp.errors import ConnectionMigrated, Fenced
from mtcp.lifeline import Lifeline

pytestmark = pytest.mark.unit


class Pair:
    """A client's plain socket, the server's Connection, and what an agent has of it: capsule and lifeline."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname())
            self.sock, peer = listener.accept()
        self.capsule = Capsule.create(log_size=64, state_max=32)
        self.watched, held = os.pipe()
        os.set_blocking(self.watched, False)
        ends = (self.sock.getsockname(), peer)
        self.connection = Connection(self.sock, ends, self.capsule, Lifeline(held))
        self.moved = Connection(self.sock, ends, self.capsule, moved=True)
        self.client.settimeout(5)
        self.connection.settimeout(5)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.capsule.fence = Fence.OPEN
            self.connection.close()
        self.client.close()
        os.close(self.watched)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


class Background:
    """`action` in a thread."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(action,), daemon=True)
        self._thread.start()

    def _run(self, action: Callable[[], Any]) -> None:
        try:
            self.result = action()
        except Exception as error:
            self.result = error

    def waits(self) -> bool:
        self._thread.join(0.05)
        return self._thread.is_alive()

    def end(self) -> Any:
        self._thread.join(5)
        assert not self._thread.is_alive()
        return self.result


def read_exactly(sock: socket.socket, n: int) -> bytes:
    return sock.recv(n, socket.MSG_WAITALL)


# -- reading and writing


def test_what_is_read_is_logged(pair: Pair) -> None:
    pair.client.sendall(b"hello, world")
    assert pair.connection.recv(5) == b"hello"
    assert pair.connection.recv(100) == b", world"
    assert pair.capsule.read_log(0, 12) == b"hello, world"
    pair.connection.export_state(b"state")
    assert pair.capsule.snapshot() == Snapshot(b"state", 12, 0)


def test_reading_more_than_the_log_holds(pair: Pair) -> None:
    pair.client.sendall(bytes(range(70)))
    got = b""
    while len(got) < 70:
        got += pair.connection.recv(100)
    assert got == bytes(range(70))
    assert pair.capsule.overflowed
    pair.connection.export_state(b"")
    assert not pair.capsule.overflowed


def test_end_of_stream(pair: Pair) -> None:
    pair.client.close()
    assert pair.connection.recv(1) == b""
    assert pair.capsule.read_offset == 0


def test_output_is_counted(pair: Pair) -> None:
    pair.connection.sendall(b"hello")
    assert pair.capsule.write_offset == 5
    assert read_exactly(pair.client, 5) == b"hello"


def test_output_that_the_client_has_is_swallowed(pair: Pair) -> None:
    pair.capsule.write_offset = pair.capsule.swallow = 7
    assert pair.connection.send(b"hello") == 5
    assert pair.connection.send(b"world") == 2
    pair.connection.export_state(b"")
    assert pair.capsule.snapshot().snd_offset == 7
    pair.connection.sendall(b"rld")
    assert read_exactly(pair.client, 3) == b"rld"
    assert (pair.capsule.swallow, pair.capsule.write_offset) == (0, 10)


def test_export_in_the_midst_of_swallowing(pair: Pair) -> None:
    """The state belongs where the application is, not where the client is."""
    pair.capsule.write_offset = pair.capsule.swallow = 7
    pair.connection.sendall(b"hello")
    pair.connection.export_state(b"")
    assert pair.capsule.snapshot().snd_offset == 5


def test_discard(pair: Pair) -> None:
    pair.capsule.write_offset = pair.capsule.swallow = 7
    assert [pair.connection.discard(5) for _ in range(3)] == [5, 2, 0]
    pair.connection.sendall(b"x")
    assert read_exactly(pair.client, 1) == b"x"


def test_splice(pair: Pair) -> None:
    """Out of a pipe; what the client has already is taken out of it, too."""
    pair.capsule.write_offset = pair.capsule.swallow = 2
    pipe, into = os.pipe()
    os.write(into, b"hello")
    assert [pair.connection.splice(pipe, 5), pair.connection.splice(pipe, 3)] == [2, 3]
    assert read_exactly(pair.client, 3) == b"llo"
    assert pair.capsule.write_offset == 5
    os.close(pipe)
    os.close(into)


def test_import_state(pair: Pair) -> None:
    assert pair.connection.import_state() is None
    pair.capsule.swallow = 7
    pair.capsule.put_snapshot(Snapshot(b"state", 0, 0))
    imported = pair.moved.import_state()
    assert imported is not None
    assert (imported.state, imported.snd_bytes_discard) == (b"state", 7)


def test_sendfile_seeks_past_what_the_client_has(pair: Pair) -> None:
    pair.capsule.write_offset = pair.capsule.swallow = 4
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        pair.connection.sendfile(file, 1, 8)
        assert read_exactly(pair.client, 4) == b"5678"
        assert pair.capsule.write_offset == 8
        with pytest.raises(ValueError, match="3 bytes early"):
            pair.connection.sendfile(file, 8, 5)


# -- waiting


def test_non_blocking(pair: Pair) -> None:
    pair.connection.setblocking(False)
    with pytest.raises(BlockingIOError) as empty:
        pair.connection.recv(1)
    assert not isinstance(empty.value, Fenced)
    pair.capsule.fence = Fence.FENCED
    for call in (lambda: pair.connection.recv(1), lambda: pair.connection.send(b"x")):
        with pytest.raises(Fenced):
            call()
    with pytest.raises(Fenced):
        pair.connection.export_state(b"new")
    assert pair.capsule.snapshot().state == b""


@pytest.mark.parametrize("fence", [Fence.OPEN, Fence.FENCED])
def test_time_out(pair: Pair, fence: Fence) -> None:
    pair.capsule.fence = fence
    pair.connection.settimeout(0.05)
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        pair.connection.recv(1)
    assert 0.04 < time.monotonic() - before < 1


def test_time_out_inside_with(pair: Pair) -> None:
    """The traceback must not keep the capsule from being unmapped."""
    pair.connection.settimeout(0.01)
    with pytest.raises(TimeoutError), pair.connection:
        pair.connection.recv(1)
    assert pair.connection.fileno() < 0


# -- the fence


CALLS: dict[str, Callable[[Connection], Any]] = {
    "recv": lambda connection: connection.recv(100),
    "send": lambda connection: connection.send(b"out"),
    "export": lambda connection: connection.export_state(b"new"),
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@calls
def test_fenced_calls_wait_and_go_on(pair: Pair, call: Callable[[Connection], Any]) -> None:
    pair.client.sendall(b"in")
    pair.capsule.fence = Fence.FENCED
    background = Background(lambda: call(pair.connection))
    assert background.waits()
    assert (pair.capsule.read_offset, pair.capsule.write_offset) == (0, 0)
    assert pair.capsule.snapshot().state == b""
    pair.capsule.fence = Fence.OPEN
    assert background.end() in (b"in", 3, None)
    offsets = (pair.capsule.read_offset, pair.capsule.write_offset, pair.capsule.snapshot().state)
    assert offsets in [(2, 0, b""), (0, 3, b""), (0, 0, b"new")]


@calls
def test_fenced_calls_wait_and_learn_that_it_has_left(pair: Pair, call: Callable[[Connection], Any]) -> None:
    pair.client.sendall(b"in")
    pair.capsule.fence = Fence.FENCED
    background = Background(lambda: call(pair.connection))
    assert background.waits()
    pair.capsule.fence = Fence.MIGRATED
    assert isinstance(background.end(), ConnectionMigrated)
    assert (pair.capsule.read_offset, pair.capsule.write_offset) == (0, 0)
    with pytest.raises(ConnectionMigrated):
        call(pair.connection)


def test_a_recv_that_waits_for_data_learns_that_it_has_left(pair: Pair) -> None:
    """The agent wakes it by destroying the socket: that is no end of stream."""
    background = Background(lambda: pair.connection.recv(1))
    assert background.waits()
    pair.capsule.fence = Fence.MIGRATED
    pair.sock.shutdown(socket.SHUT_RDWR)
    assert isinstance(background.end(), ConnectionMigrated)


def fence_falls(pair: Pair, fence: Fence, result: bytes) -> Callable[[], bytes]:
    """An operation on the socket during which the agent sets the fence."""

    def operation() -> bytes:
        pair.capsule.fence = fence
        return result

    return operation


def test_what_the_sockets_destruction_looks_like_is_not_returned(pair: Pair) -> None:
    """The fence falls between the look at it and the end of stream that destroying the socket gives."""
    with pytest.raises(ConnectionMigrated):
        pair.connection._try(fence_falls(pair, Fence.MIGRATED, b""))


def test_a_call_during_which_the_fence_falls_returns_after_the_outcome(pair: Pair) -> None:
    background = Background(lambda: pair.connection._try(fence_falls(pair, Fence.FENCED, b"data")))
    assert background.waits()
    pair.capsule.fence = Fence.OPEN
    assert background.end() == b"data"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM])
def test_a_call_on_a_frozen_socket_is_made_again_even_if_the_fence_is_open_by_then(pair: Pair, number: int) -> None:
    """The move was refused at once: the thread that ran into it may look late."""

    def frozen_for_a_moment() -> bytes:
        if not pair.capsule.attempt:
            pair.capsule.attempt = 1
            raise OSError(number, "in repair mode")
        return b"thawed"

    assert pair.connection._attempt(frozen_for_a_moment, 0) == b"thawed"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ECONNRESET])
def test_other_errors_are_the_callers(pair: Pair, number: int) -> None:
    def failing() -> bytes:
        pair.capsule.attempt += number == errno.ECONNRESET
        raise OSError(number, "of its own")

    with pytest.raises(OSError, match="of its own"):
        pair.connection._attempt(failing, 0)


def test_a_full_send_waits_without_the_lock(pair: Pair) -> None:
    """Another thread may read, and export, meanwhile."""
    background = Background(lambda: pair.connection.sendall(bytes(20_000_000)))
    assert background.waits()
    pair.client.sendall(b"in")
    assert pair.connection.recv(2) == b"in"
    pair.connection.export_state(b"new")
    left = 20_000_000
    while left:
        left -= len(pair.client.recv(1 << 20))
    assert background.end() is None
    assert pair.capsule.write_offset == 20_000_000


# -- ends, forks, and connections that are plain


def test_close_tells_the_agent_and_leaves_the_end_to_it(pair: Pair) -> None:
    agents = pair.sock.dup()
    pair.connection.close()
    pair.connection.close()
    assert (os.read(pair.watched, 10), os.read(pair.watched, 10)) == (b"-", b"")
    pair.client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        pair.client.recv(1)
    agents.close()
    assert pair.client.recv(1) == b""


def test_close_after_the_agent_has_let_go(pair: Pair) -> None:
    os.close(pair.watched)
    pair.connection.close()
    assert pair.client.recv(1) == b""
    pair.watched = os.open(os.devnull, os.O_RDONLY)


def test_each_process_closes_for_itself(pair: Pair) -> None:
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        ok = pair.connection.recv(1) == b"x"
        pair.connection.close()
        os._exit(0 if ok else 1)
    pair.connection.close()
    pair.client.sendall(b"x")
    assert os.waitpid(pid, 0)[1] == 0
    assert sorted(os.read(pair.watched, 10)) == sorted(b"+--")
    assert os.read(pair.watched, 10) == b""


def test_shutdown(pair: Pair) -> None:
    pair.connection.export_state(b"before")
    pair.connection.sendall(b"out")
    pair.connection.shutdown(socket.SHUT_WR)
    assert (read_exactly(pair.client, 3), pair.client.recv(1)) == (b"out", b"")
    pair.client.sendall(b"in")
    assert pair.connection.recv(2) == b"in"
    assert not pair.capsule.snapshot().ended
    pair.connection.export_state(b"after")
    assert pair.capsule.snapshot() == Snapshot(b"after", 2, 3, ended=True)


def test_a_fenced_shutdown_waits(pair: Pair) -> None:
    pair.capsule.fence = Fence.FENCED
    background = Background(lambda: pair.connection.shutdown(socket.SHUT_WR))
    assert background.waits()
    pair.capsule.fence = Fence.MIGRATED
    assert isinstance(background.end(), ConnectionMigrated)
    assert not pair.capsule.ended


def test_a_forked_child_goes_on(pair: Pair) -> None:
    pair.client.sendall(b"0123456789")
    assert pair.connection.recv(3) == b"012"
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        ok = pair.connection.recv(4) == b"3456"
        pair.connection.export_state(b"child")
        pair.connection.sendall(b"out")
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert pair.capsule.snapshot() == Snapshot(b"child", 7, 0)
    assert pair.connection.recv(3) == b"789"
    assert pair.capsule.read_log(7, 10) == b"789"
    assert pair.capsule.write_offset == 3


def test_plain(pair: Pair) -> None:
    """Without a capsule all that M-TCP adds does nothing."""
    plain = Connection(pair.sock, (("a", 1), ("b", 2)))
    assert not plain.migratable
    plain.export_state(b"x" * 100)
    assert (plain.import_state(), plain.discard(5)) == (None, 0)
    plain.sendall(b"out")
    pair.client.sendall(b"in")
    assert (plain.recv(10), read_exactly(pair.client, 3)) == (b"in", b"out")
    assert (plain.getsockname(), plain.getpeername()) == (("a", 1), ("b", 2))
    assert (pair.capsule.read_offset, pair.capsule.write_offset) == (0, 0)
