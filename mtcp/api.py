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
from mtcp.capsule import Capsule, Fence
from mtcp.errors import ConnectionMigrated, Fenced
from mtcp.lifeline import Lifeline
from mtcp.reattaching import Reattaching

FENCED_FIRST, FENCED_POLL = 0.0001, 0.005
"""Seconds between looks at the fence while a move is under way, doubled from the first to the last. A connection that
has moved here is fenced for its first moment; success of a move away also wakes the socket."""
POLL_UNIT = 0.001
"""Seconds, the shortest that poll(2) can wait."""
LOOK_EVERY = 0.5
"""Seconds between looks at the lifeline of a connection that is used without waiting for it."""
SENDFILE_PIECE = 1 << 24
"""Bytes per call of sendfile(2): more than any socket's buffer takes at once."""
FROZEN = (errno.EINVAL, errno.EPERM)
"""What a socket in repair mode answers to send and recv; the fence may be open again when we look."""
Ends = tuple[tuple[str, int], tuple[str, int]]
_T = TypeVar("_T")
_open: weakref.WeakSet[Connection] = weakref.WeakSet()
_reattaching = Reattaching()


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
        self.capsule_id = capsule.id if capsule is not None else 0
        self._moved = moved
        self._timeout: float | None = None
        self._ends = ends
        self._no_agent = False
        self._unwatched = False
        self._look_at = time.monotonic() + LOOK_EVERY
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

    def export_state(self, state: bytes, hold: bool = False) -> None:
        """Record where the application is. Nothing on a plain connection.

        `hold`: until the next export, the connection moves only if the application dies; attempts are refused (HELD).

        ValueError when `state` is larger than `listen` allowed; ConnectionMigrated when the connection has gone.
        """
        capsule = self._capsule
        if capsule is None:
            return
        while True:
            with capsule.lock():
                if capsule.is_open:
                    capsule.export(state, hold)
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

    def splice(self, pipe: int, count: int) -> int:
        """Write some of the next `count` bytes of a pipe, which has as many, without copying; how much."""
        if skipped := self.discard(count):
            return len(os.read(pipe, skipped))
        write = partial(os.splice, pipe, self._sock.fileno(), count)
        return self._attempt(lambda: self._output(count, write), select.POLLOUT)

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

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
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

    # -- when the agent has ended (mtcp.reattaching)

    @property
    def is_lost(self) -> bool:
        """Whether it is migratable, and no agent watches it any more."""
        capsule, lifeline = self._capsule, self._lifeline
        if capsule is None or lifeline is None or self._no_agent or self._sock.fileno() < 0:
            return False
        try:
            return not lifeline.is_watched and capsule.fence is not Fence.MIGRATED
        except ValueError:  # another thread is closing it
            return False

    def attach_again(self, channel: socket.socket) -> None:
        """Tell another agent of it; OSError when that does not read."""
        capsule, lifeline = self._capsule, self._lifeline
        assert capsule is not None and lifeline is not None
        watched, held = os.pipe()
        try:
            local.send(channel, {"op": "attach", "again": True}, [self._sock.fileno(), capsule.fd, watched])
        except OSError:
            os.close(held)
            raise
        finally:
            os.close(watched)
        lifeline.replace(held)
        if self._sock.fileno() < 0:
            # Another thread has closed the connection meanwhile.
            lifeline.close()

    def refused(self) -> None:
        """The agent will not have it: it stays where it is."""
        self._no_agent = True
        if self._capsule is not None and self._capsule.fence is Fence.FENCED:
            # Nobody will ever say what became of it.
            self._capsule.fence = Fence.MIGRATED

    # -- the fence

    def _try(self, operation: Callable[[], _T]) -> _T:
        """Once, without waiting. Fenced or BlockingIOError: not now. ConnectionMigrated: never again."""
        capsule = self._capsule
        if capsule is None:
            return operation()
        with capsule.lock():
            self._check_fence()
            decided = capsule.attempt
            try:
                result = operation()
            except OSError as error:
                # A frozen socket refuses everything, and one that has left is not connected.
                self._check_fence()
                if error.errno in FROZEN and capsule.attempt != decided:
                    raise Fenced from None
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
        now = time.monotonic()
        deadline = None if self._timeout is None else now + self._timeout
        pause = FENCED_FIRST
        if self._lifeline is not None and now >= self._look_at:
            # Who never waits is never woken.
            self._look_at = now + LOOK_EVERY
            self._look_for_agent()
        while True:
            try:
                return self._try(operation)
            except Fenced:
                if self._timeout == 0:
                    self._look_for_agent()
                    raise
                self._poll(0, deadline, pause)
                pause = min(2 * pause, FENCED_POLL)
            except BlockingIOError:
                if self._timeout == 0:
                    raise
                self._poll(events, deadline, None)

    def _poll(self, events: int, deadline: float | None, at_most: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        waits = [seconds for seconds in (left, at_most) if seconds is not None]
        if at_most is not None and at_most < POLL_UNIT:
            time.sleep(min(waits))
            return
        poll = select.poll()
        poll.register(self._sock, events)
        lifeline = -1
        if self._unwatched and self._look_for_agent():
            waits.append(max(_reattaching.left(), FENCED_POLL))
        elif self._lifeline is not None and not self._no_agent:
            # It wakes us when the agent ends, for nobody but this thread may be there to look for another.
            lifeline = self._lifeline.fileno()
            poll.register(lifeline, 0)
        ready = poll.poll(min(waits) * 1000 if waits else None)
        self._unwatched |= any(fd == lifeline for fd, _ in ready)

    def _look_for_agent(self) -> bool:
        """Try to find another if there is none; whether that goes on."""
        if self.is_lost:
            reattach()
        self._unwatched = self.is_lost
        return self._unwatched

    def _wait_for_outcome(self) -> None:
        """Return when the fence is open again; ConnectionMigrated when it never will be."""
        while True:
            try:
                return self._check_fence()
            except Fenced:
                if self._timeout == 0:
                    self._look_for_agent()
                    raise
                self._poll(0, None, FENCED_POLL)


def reattach() -> bool:
    """Bring connections that have no agent to the one that runs, if it is time; whether nothing is left to do."""
    return _reattaching.attempt(_all_open())


def _all_open() -> list[Connection]:
    while True:
        with contextlib.suppress(RuntimeError):  # another thread has added one
            return list(_open)


@atexit.register
def _close_all() -> None:
    """A process that ends in good order closes its connections, as the kernel does for plain sockets."""
    for connection in _all_open():
        connection.close()


def _after_fork() -> None:
    _reattaching.after_fork()
    for connection in _all_open():
        if connection._lifeline is not None and connection.fileno() >= 0:
            connection._lifeline.forked()


os.register_at_fork(after_in_child=_after_fork)
