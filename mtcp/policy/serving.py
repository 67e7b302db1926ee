"""The base of servers' policies: when a server asks clients to leave it, by hints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mtcp.wire.options import HintReason


@dataclass(frozen=True)
class HostView:
    """A server's host, as its agent sees it now. What is None is not known here.

    Counts are since some origin on, shares of the time since the view before.
    """

    now: float
    """Seconds on a monotonic clock."""
    pressure: float | None = None
    """The share of the time in which some process of the host waited for a processor (PSI), or was throttled."""
    delay: float | None = None
    """The share of the time in which the service's thread that waited longest did."""
    queue: float | None = None
    """How full the fullest accept queue is: 1 is full."""
    cookies: int | None = None
    """SYN cookies sent."""
    half_open: int | None = None
    """Connections of which the handshake is not complete (SYN_RECV)."""
    drops: int | None = None
    """SYNs and connections that listeners dropped."""


class ServerPolicy:
    """Never asks: the base of those that do."""

    interval: float = 0.1
    """Seconds between calls of `observe`."""
    reason: ClassVar[HintReason]
    """What the hints say."""
    holdoff: float
    """Seconds for which a connection that has come from another server, or has been asked, is not asked."""

    def observe(self, view: HostView) -> int:
        """How many clients may be asked to leave now; the agent chooses them."""
        return 0


class Trouble(ServerPolicy):
    """In trouble from the time on at which the level has been 1 for `patience` seconds, until it is below `relief`.

    Meanwhile it asks `rate` clients a second: so a server whose trouble ends with some of its connections keeps the
    others. A subclass says what the level is.
    """

    def __init__(self, patience: float, relief: float, rate: float, holdoff: float) -> None:
        """ValueError when a parameter makes no sense."""
        if patience < 0 or not 0 <= relief <= 1 or not 0 < rate <= 1000 or holdoff < 0:
            raise ValueError("patience >= 0, 0 <= relief <= 1, 0 < rate <= 1000 and holdoff >= 0 are needed")
        self._patience, self._relief, self._rate, self.holdoff = patience, relief, rate, holdoff
        self._high_since: float | None = None
        self._in_trouble = False
        self._allowance = 0.0
        self._last: HostView | None = None

    def level(self, last: HostView, view: HostView) -> float:
        """1: too much."""
        raise NotImplementedError

    def observe(self, view: HostView) -> int:
        last, self._last = self._last, view
        if last is None or view.now <= last.now:
            return 0
        level = self.level(last, view)
        self._high_since = None if level < 1 else view.now if self._high_since is None else self._high_since
        if self._in_trouble:
            self._in_trouble = level >= self._relief
            self._allowance = min(self._allowance + self._rate * (view.now - last.now), max(1.0, self._rate))
        elif self._high_since is not None and view.now - self._high_since >= self._patience:
            self._in_trouble, self._allowance = True, 1.0
        if not self._in_trouble:
            return 0
        asked = int(self._allowance)
        self._allowance -= asked
        return asked
