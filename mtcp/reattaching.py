"""When this host's agent has ended, and another has begun: an application's connections become known to it again.

Whoever waits for a connection sees by its lifeline that no agent watches it, and tries now and then; a listener does
so, too. One try is for all connections of the process. There is no thread, and nothing waits for the agent.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable
from typing import Protocol

from mtcp.agent import local
from mtcp.errors import MtcpError

FIRST, LAST = 0.1, 1.0
"""Seconds between tries: doubled each time, from the first to the last."""
ANSWER_MAX = 4096
"""Bytes of the agent's longest answer."""


class Backoff:
    """When to try next."""

    def __init__(self) -> None:
        self._next_at = 0.0
        self._pause = FIRST

    def left(self) -> float:
        """Seconds until the next try."""
        return max(0.0, self._next_at - time.monotonic())

    def failed(self) -> None:
        self._next_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LAST)

    def succeeded(self) -> None:
        """The next try, if there has to be one, is for another agent."""
        self._next_at = time.monotonic() + FIRST
        self._pause = FIRST


class Attached(Protocol):
    """A connection that an agent had."""

    @property
    def capsule_id(self) -> int:
        """As of Capsule."""

    @property
    def is_lost(self) -> bool:
        """Whether it ought to have an agent, and has none."""

    def attach_again(self, channel: socket.socket) -> None:
        """Tell the agent at the other end of `channel` of it; OSError when that does not read."""

    def refused(self) -> None:
        """The agent will not have it."""


class Reattaching:
    """What a process has to do with it. The channel is for this alone: the listener's is the listener's."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._channel: socket.socket | None = None
        self._backoff = Backoff()

    def left(self) -> float:
        """Seconds until there is a point in trying."""
        return self._backoff.left()

    def attempt(self, connections: Iterable[Attached]) -> bool:
        """Bring all that are lost to the agent, if it is time and there is one; whether nothing is left to do.

        When another thread is at it, it is left to that.
        """
        if self.left() or not self._mutex.acquire(blocking=False):
            return False
        try:
            self._take_refusals(connections)
            lost = [connection for connection in connections if connection.is_lost]
            if not lost:
                return True
            self._backoff.failed()
            if self._channel is None:
                self._channel = local.connect(blocking=False)
            for connection in lost:
                connection.attach_again(self._channel)
            # Whether the agent takes them shows at the next try.
            self._backoff.succeeded()
        except (MtcpError, OSError):
            pass
        finally:
            self._mutex.release()
        return False

    def _take_refusals(self, connections: Iterable[Attached]) -> None:
        while self._channel is not None:
            try:
                answer, fds = local.receive(self._channel, ANSWER_MAX)
            except BlockingIOError:
                return
            except (EOFError, OSError, ValueError):
                self._channel.close()
                self._channel = None
                return
            for fd in fds:
                os.close(fd)
            for connection in connections:
                if answer.get("op") == "refused" and connection.capsule_id == answer.get("capsule"):
                    connection.refused()

    def after_fork(self) -> None:
        """In a child: the channel is the parent's."""
        if self._channel is not None:
            self._channel.close()
        self.__init__()  # type: ignore[misc]
