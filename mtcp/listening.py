"""Where the server application's connections come from: clients, and other servers by way of the agent."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import weakref
from types import TracebackType
from typing import Self

from mtcp import api
from mtcp.agent import local
from mtcp.api import Connection
from mtcp.capsule import LOG_SIZE, STATE_MAX, Capsule
from mtcp.errors import MtcpError
from mtcp.lifeline import Lifeline
from mtcp.linux.syn import TCP_SAVE_SYN, asked_for_mtcp
from mtcp.linux.timerfd import Timer
from mtcp.reattaching import FIRST, Backoff

IMPORT_MAX = 4096
"""Bytes of the agent's longest message to an application."""
AGENT_READS = 0.1
"""Seconds in which the agent reads what is before an attach. One that does not costs every new connection as long,
until it is plain TCP."""
_listeners: weakref.WeakSet[Listener] = weakref.WeakSet()


class Listener:
    """A listening socket whose `accept` also returns connections that have moved here."""

    def __init__(self, sock: socket.socket, channel: socket.socket | None, log_size: int, state_max: int) -> None:
        self._sock = sock
        self._channel = channel
        self._looking = False
        """Whether the agent has ended, and not all that this process had with it is with another."""
        self._backoff = Backoff()
        self._log_size = log_size
        self._state_max = state_max
        self._watch()
        _listeners.add(self)

    def _watch(self) -> None:
        """Make `fileno`."""
        self._timer = Timer()
        self._epoll = select.epoll()
        for source in (self._sock, self._channel, self._timer):
            if source is not None:
                self._epoll.register(source, select.EPOLLIN)

    def _after_fork(self) -> None:
        """In a child: what fork passes on is the parent's, and each would change it for both."""
        if not self._epoll.closed:
            self._epoll.close()
            self._timer.close()
            self._watch()

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
        self._look_for_agent()
        sock, peer = self._sock.accept()
        ends = (_end(sock.getsockname()), _end(peer))
        if self._channel is None or not asked_for_mtcp(sock):
            return Connection(sock, ends)
        capsule = Capsule.create(self._log_size, self._state_max)
        watched, held = os.pipe()
        lifeline = Lifeline(held)
        try:
            _send_patiently(self._channel, {"op": "attach"}, [sock.fileno(), capsule.fd, watched])
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
            # The agent is gone. Until there is another, new connections are plain TCP.
            self._epoll.unregister(channel)
            channel.close()
            self._channel = None
            self._looking = True
            self._backoff.succeeded()
            self._look_for_agent()
            raise BlockingIOError from None
        if message.get("op") != "import":
            # That another agent has heard of us; or the answer to an attach that was refused, and stays where it is.
            raise BlockingIOError
        # Opened anew, so that its lock is this process's own.
        capsule = Capsule(os.open(f"/proc/self/fd/{fds[1]}", os.O_RDWR | os.O_CLOEXEC))
        os.close(fds[1])
        local_end, peer = message["local"], message["remote"]
        ends = ((local_end[0], local_end[1]), (peer[0], peer[1]))
        return Connection(socket.socket(fileno=fds[0]), ends, capsule, Lifeline(fds[2]), moved=True)

    def _look_for_agent(self) -> None:
        """When there is none: try now and then, `fileno` becoming readable for it."""
        if not self._looking:
            return
        done = api.reattach()
        if self._channel is None and not self._backoff.left():
            self._backoff.failed()
            with contextlib.suppress(MtcpError, OSError):
                channel = local.connect(blocking=False)
                _say(channel, self._sock, self._log_size, self._state_max)
                self._epoll.register(channel, select.EPOLLIN)
                self._channel = channel
        if self._channel is None or not done:
            self._timer.start(self._backoff.left() if self._channel is None else FIRST)
        else:
            self._timer.stop()
            self._looking = False

    def fileno(self) -> int:
        """Readable when `accept_nowait` has something."""
        return self._epoll.fileno()

    def getsockname(self) -> tuple[str, int]:
        return self._sock.getsockname()[:2]  # type: ignore[no-any-return]

    def close(self) -> None:
        """Take no more connections, in this process. Those accepted live on."""
        self._epoll.close()
        self._timer.close()
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
            channel = _announce(sock, log_size, state_max)
        sock.listen(backlog)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, channel, log_size, state_max)


def _send_patiently(channel: socket.socket, message: local.Message, fds: list[int]) -> None:
    """Of many clients that come at the same instant the agent's socket may be full: wait, it reads at once. OSError."""
    with contextlib.suppress(BlockingIOError):
        return local.send(channel, message, fds)
    writable = select.poll()
    writable.register(channel, select.POLLOUT)
    writable.poll(AGENT_READS * 1000)
    return local.send(channel, message, fds)


def _end(address: tuple[str, int]) -> tuple[str, int]:
    """An address of IPv4 as such, whatever the socket is."""
    return address[0].removeprefix("::ffff:"), address[1]


def _say(channel: socket.socket, sock: socket.socket, log_size: int, state_max: int) -> None:
    local.send(channel, {"op": "listen", "log_size": log_size, "state_max": state_max}, [sock.fileno()])


def _announce(sock: socket.socket, log_size: int, state_max: int) -> socket.socket:
    """Tell the agent, before the first client can come, that connections to this port are migratable."""
    channel = local.connect()
    _say(channel, sock, log_size, state_max)
    try:
        answer, _ = local.receive(channel)
    except EOFError as e:
        raise MtcpError("the agent of this host refused us; see its log") from e
    if "error" in answer:
        raise MtcpError(str(answer["error"]))
    channel.setblocking(False)
    return channel


def _after_fork() -> None:
    for listener in list(_listeners):
        listener._after_fork()


os.register_at_fork(after_in_child=_after_fork)
