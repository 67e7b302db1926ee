"""The server application's interface: a TCP socket, and two calls more.

    with mtcp.listen(("", 80)) as listener:
        connection = listener.accept()
        imported = connection.import_state()      # None on a fresh connection
        ...
        connection.export_state(state)            # from here on another server can go on

`export_state` says: with this state, and what comes after it in the two streams, another instance of this program can
go on. Output that was written after it and that the client has already is written again by that instance, and the
library swallows it.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import select
import socket
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from mtcp.agent import local
from mtcp.capsule import LOG_SIZE, STATE_MAX, Capsule, Fence
from mtcp.errors import ConnectionMigrated, MtcpError
from mtcp.lifeline import Lifeline
from mtcp.linux.syn import TCP_SAVE_SYN, asked_for_mtcp

IMPORT_MAX = 4096
"""Bytes of the agent's longest message to an application."""
FENCED_POLL = 0.005
"""Seconds between looks at the fence while a move is under way; its success also wakes the socket."""
SENDFILE_PIECE = 1 << 24
"""Bytes per call of sendfile(2): more than any socket's buffer takes at once."""
Ends = tuple[tuple[str, int], tuple[str, int]]
_T = TypeVar("_T")
_open: weakref.WeakSet[Connection] = weakref.WeakSet()


class Fenced(BlockingIOError):
    """A move is under way: what a non-blocking call gets until its outcome is known (EAGAIN)."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "the connection is being moved")


@dataclass(frozen=True)
class Imported:
    """What another server's instance of this program left."""

    state: bytes
    """As given to the last export_state; empty when there was none."""
    snd_bytes_discard: int
    """Bytes of the output that follows the state that the client has already."""


class Connection:
    """An accepted connection: plain TCP, or, when its client asked for M-TCP and an agent runs here, migratable."""

    def __init__(
        self,
        sock: socket.socket,
        ends: Ends,
        capsule: Capsule | None = None,
        lifeline: Lifeline | None = None,
        moved: bool = False,
    ) -> None:
        """`ends`: this end's address and the client's; the socket forgets them when the connection leaves.

        With a capsule the agent holds the socket, too, and `lifeline` tells it when to close it.
        """
        sock.setblocking(False)
        self._sock = sock
        self._capsule = capsule
        self._lifeline = lifeline
        self._moved = moved
        self._timeout: float | None = None
        self._ends = ends
        _open.add(self)

    # -- what M-TCP adds

    @property
    def migratable(self) -> bool:
        """Whether this connection can move at all."""
        return self._capsule is not None

    def import_state(self) -> Imported | None:
        """What to go on from, or None when the connection began here."""
        if self._capsule is None or not self._moved:
            return None
        return Imported(self._capsule.snapshot().state, self._capsule.swallow)

    def export_state(self, state: bytes) -> None:
        """Record where the application is. Nothing on a plain connection.

        ValueError when `state` is larger than `listen` allowed; ConnectionMigrated when the connection has gone.
        """
        capsule = self._capsule
        if capsule is None:
            return
        while True:
            with capsule.lock():
                if capsule.is_open:
                    capsule.export(state)
                    break
            self._wait_for_outcome()
        if not capsule.is_open:
            self._wait_for_outcome()

    def discard(self, limit: int) -> int:
        """How many of the next `limit` bytes of output the client has already; they count as written.

        For applications that can seek. Those that cannot just write: the library swallows as many.
        """
        if self._capsule is None or not self._capsule.swallow:
            return 0
        with self._capsule.lock():
            n = min(limit, self._capsule.swallow)
            self._capsule.swallow -= n
            return n

    # -- what a socket has

    def recv(self, n: int) -> bytes:
        """Up to `n` bytes; b"" at the end of the stream."""
        capsule = self._capsule
        if capsule is None:
            return self._attempt(lambda: self._sock.recv(n), select.POLLIN)

        def logged() -> bytes:
            # Let go of at once, also by an exception whose traceback lives on: it would keep the capsule mapped.
            with capsule.log_space(n) as space:
                if space:
                    length = self._sock.recv_into(space)
                    data = bytes(space[:length])
                    capsule.logged(length)
                    return data
            data = self._sock.recv(n)
            if data:
                capsule.read_past_log(len(data))
            return data

        return self._attempt(logged, select.POLLIN)

    def send(self, data: bytes | memoryview) -> int:
        """Write some of `data`; how much."""
        return self._attempt(lambda: self._output(len(data), lambda: self._sock.send(data)), select.POLLOUT)

    def sendall(self, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def sendfile(self, file: BinaryIO, offset: int, count: int) -> None:
        """Write `count` bytes of `file` from `offset` on, without copying; seeks past what the client has already."""
        end = offset + count
        while offset < end:
            n = self._attempt(partial(self._sendfile_once, file, offset, end - offset), select.POLLOUT)
            if not n:
                raise ValueError(f"{file.name!r} ended {end - offset} bytes early")
            offset += n

    def _sendfile_once(self, file: BinaryIO, offset: int, count: int) -> int:
        piece = min(count, SENDFILE_PIECE)
        return self._output(count, lambda: os.sendfile(self._sock.fileno(), file.fileno(), offset, piece))

    def _output(self, length: int, write: Callable[[], int]) -> int:
        capsule = self._capsule
        if capsule is None:
            return write()
        if capsule.swallow:
            n = min(length, capsule.swallow)
            capsule.swallow -= n
            return n
        n = write()
        capsule.write_offset += n
        return n

    def shutdown(self, how: int) -> None:
        """As of socket.shutdown. The end of the output (SHUT_WR) moves with the connection; SHUT_RD does not."""
        self._attempt(partial(self._shutdown_once, how), select.POLLOUT)

    def _shutdown_once(self, how: int) -> None:
        self._sock.shutdown(how)
        if self._capsule is not None and how != socket.SHUT_RD:
            self._capsule.ended = 1

    def settimeout(self, seconds: float | None) -> None:
        """As of socket.settimeout: None waits for ever, 0 never waits."""
        self._timeout = seconds

    def setblocking(self, blocking: bool) -> None:
        self._timeout = None if blocking else 0.0

    def fileno(self) -> int:
        return self._sock.fileno()

    def getsockname(self) -> tuple[str, int]:
        return self._ends[0]

    def getpeername(self) -> tuple[str, int]:
        return self._ends[1]

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """For options of this server's socket; those that travel are SO_KEEPALIVE, SO_LINGER and TCP_NODELAY."""
        self._sock.setsockopt(level, option, value)

    def close(self) -> None:
        """End this process's use of it; the connection ends with the last process's, unless it has moved."""
        if self._sock.fileno() < 0:
            return
        self._sock.close()
        if self._capsule is not None:
            self._capsule.close()
        if self._lifeline is not None:
            self._lifeline.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # -- the fence

    def _try(self, operation: Callable[[], _T]) -> _T:
        """Once, without waiting. Fenced or BlockingIOError: not now. ConnectionMigrated: never again."""
        capsule = self._capsule
        if capsule is None:
            return operation()
        with capsule.lock():
            self._check_fence()
            try:
                result = operation()
            except OSError:
                # A frozen socket refuses everything, and one that has left is not connected.
                self._check_fence()
                raise
        # The fence may have fallen meanwhile; if the connection has left, what came back (an end of stream, say) is
        # of the socket's destruction. A call that must not wait has happened before the fence, and returns.
        if not capsule.is_open and (capsule.fence is Fence.MIGRATED or self._timeout != 0):
            self._wait_for_outcome()
        return result

    def _check_fence(self) -> None:
        capsule = self._capsule
        if capsule is None or capsule.is_open:
            return
        if capsule.fence is Fence.MIGRATED:
            raise ConnectionMigrated(errno.ECONNABORTED, "the connection has moved to another server")
        raise Fenced

    def _attempt(self, operation: Callable[[], _T], events: int) -> _T:
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            try:
                return self._try(operation)
            except Fenced:
                if self._timeout == 0:
                    raise
                self._poll(0, deadline, FENCED_POLL)
            except BlockingIOError:
                if self._timeout == 0:
                    raise
                self._poll(events, deadline, None)

    def _poll(self, events: int, deadline: float | None, at_most: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        waits = [seconds for seconds in (left, at_most) if seconds is not None]
        poll = select.poll()
        poll.register(self._sock, events)
        poll.poll(min(waits) * 1000 if waits else None)

    def _wait_for_outcome(self) -> None:
        """Return when the fence is open again; ConnectionMigrated when it never will be."""
        while True:
            try:
                return self._check_fence()
            except Fenced:
                if self._timeout == 0:
                    raise
                self._poll(0, None, FENCED_POLL)


class Listener:
    """A listening socket whose `accept` also returns connections that have moved here."""

    def __init__(self, sock: socket.socket, channel: socket.socket | None, log_size: int, state_max: int) -> None:
        self._sock = sock
        self._channel = channel
        self._log_size = log_size
        self._state_max = state_max
        self._epoll = select.epoll()
        self._epoll.register(sock, select.EPOLLIN)
        if channel is not None:
            self._epoll.register(channel, select.EPOLLIN)

    def accept(self) -> Connection:
        """Wait for the next connection, new or moved here."""
        while True:
            self._epoll.poll()
            with contextlib.suppress(BlockingIOError):
                return self.accept_nowait()

    def accept_nowait(self) -> Connection:
        """The next connection; BlockingIOError when there is none. `fileno` becomes readable when there is."""
        if self._channel is not None:
            with contextlib.suppress(BlockingIOError):
                return self._imported(self._channel)
        sock, peer = self._sock.accept()
        ends = (_end(sock.getsockname()), _end(peer))
        if self._channel is None or not asked_for_mtcp(sock):
            return Connection(sock, ends)
        capsule = Capsule.create(self._log_size, self._state_max)
        watched, held = os.pipe()
        lifeline = Lifeline(held)
        try:
            local.send(self._channel, {"op": "attach"}, [sock.fileno(), capsule.fd, watched])
        except OSError:
            capsule.close()
            lifeline.close()
            return Connection(sock, ends)
        finally:
            os.close(watched)
        return Connection(sock, ends, capsule, lifeline)

    def _imported(self, channel: socket.socket) -> Connection:
        try:
            message, fds = local.receive(channel, IMPORT_MAX)
        except (EOFError, ConnectionError):
            # The agent is gone. New connections are plain TCP.
            self._epoll.unregister(channel)
            self._channel = None
            raise BlockingIOError from None
        if message.get("op") != "import":
            # The answer to an attach that was refused: that connection stays where it is.
            raise BlockingIOError
        # Opened anew, so that its lock is this process's own.
        capsule = Capsule(os.open(f"/proc/self/fd/{fds[1]}", os.O_RDWR | os.O_CLOEXEC))
        os.close(fds[1])
        local_end, peer = message["local"], message["remote"]
        ends = ((local_end[0], local_end[1]), (peer[0], peer[1]))
        return Connection(socket.socket(fileno=fds[0]), ends, capsule, Lifeline(fds[2]), moved=True)

    def fileno(self) -> int:
        """Readable when `accept_nowait` has something."""
        return self._epoll.fileno()

    def getsockname(self) -> tuple[str, int]:
        return self._sock.getsockname()[:2]  # type: ignore[no-any-return]

    def close(self) -> None:
        """Take no more connections, in this process. Those accepted live on."""
        self._epoll.close()
        if self._channel is not None:
            self._channel.close()
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def listen(
    address: tuple[str, int],
    *,
    backlog: int = 128,
    log_size: int = LOG_SIZE,
    state_max: int = STATE_MAX,
    migratable: bool = True,
) -> Listener:
    """Listen on `address`, a host ("" for all, of IPv4 and IPv6) and a port.

    `log_size` bounds what an application may read between two calls of export_state and still be moved, `state_max`
    its state, both in bytes. With `migratable` false this is plain TCP. MtcpError when no agent runs on this host;
    OSError when the port is taken.
    """
    both = not address[0] and socket.has_dualstack_ipv6()
    sock = socket.socket(socket.AF_INET6 if both or ":" in address[0] else socket.AF_INET)
    try:
        if both:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        channel = None
        if migratable:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
            channel = _announce(sock.getsockname()[1], log_size, state_max)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, channel, log_size, state_max)


def _end(address: tuple[str, int]) -> tuple[str, int]:
    """An address of IPv4 as such, whatever the socket is."""
    return address[0].removeprefix("::ffff:"), address[1]


def _announce(port: int, log_size: int, state_max: int) -> socket.socket:
    """Tell the agent, before the first client can come, that connections to `port` are migratable."""
    channel = local.connect()
    local.send(channel, {"op": "listen", "port": port, "log_size": log_size, "state_max": state_max})
    try:
        answer, _ = local.receive(channel)
    except EOFError as e:
        raise MtcpError("the agent of this host refused us; see its log") from e
    if "error" in answer:
        raise MtcpError(str(answer["error"]))
    channel.setblocking(False)
    return channel


@atexit.register
def _close_all() -> None:
    """A process that ends in good order closes its connections, as the kernel does for plain sockets."""
    for connection in list(_open):
        connection.close()


def _after_fork() -> None:
    for connection in list(_open):
        if connection._lifeline is not None and connection.fileno() >= 0:
            connection._lifeline.forked()


os.register_at_fork(after_in_child=_after_fork)
