"""The client leaves a server whose data comes too slowly, as in the M-TCP papers' own experiments.

The smoothed inbound rate is compared with the highest one that the connection has seen.
"""

from __future__ import annotations

from mtcp.address import Endpoint
from mtcp.policy.base import View
from mtcp.policy.hints import Hints

WEIGHT = 0.3
"""Of the latest sample, in the smoothed rate."""


class Throughput(Hints):
    """Moves when the smoothed rate of a connection that carries data is below `fraction` of its highest.

    `patience`: seconds for which it must be so. `holdoff`: seconds after a move, in which the new server shows what it
    can, before the next one. `floor`: bytes per second; what never was faster is no bulk transfer, and stays.

    A server that is silent looks like one that has said all: silence counts only while the client's own last bytes, a
    request, are younger than the last data, or for `patience` after that.
    """

    interval = 0.1

    def __init__(
        self, fraction: float = 0.4, patience: float = 1.0, holdoff: float = 5.0, floor: float = 50_000.0
    ) -> None:
        """ValueError when a parameter makes no sense."""
        if not 0 < fraction < 1 or patience <= 0 or holdoff < 0 or floor < 0:
            raise ValueError("throughput needs 0 < fraction < 1, patience > 0, holdoff >= 0 and floor >= 0")
        self._fraction, self._patience, self._holdoff, self._floor = fraction, patience, holdoff, floor
        self._last: View | None = None
        self._rate = self._highest = 0.0
        self._slow_since: float | None = None
        self._quiet_until = 0.0
        self._heard_at = self._asked_at = 0.0

    def observe(self, view: View) -> Endpoint | None:
        last, self._last = self._last, view
        if last is None or view.now <= last.now:
            self._heard_at = view.now
            return None
        if view.current != last.current:
            self._quiet_until, self._slow_since = view.now + self._holdoff, None
        if view.received > last.received:
            self._heard_at = view.now
        if view.sent > last.sent:
            self._asked_at = view.now
        if self._asked_at <= self._heard_at < view.now - self._patience:
            # Idle: all that was asked for has been answered.
            self._slow_since = None
            return None
        sample = (view.received - last.received) / (view.now - last.now)
        self._rate += WEIGHT * (sample - self._rate)
        self._highest = max(self._highest, self._rate)
        if self._highest < self._floor or self._rate >= self._fraction * self._highest:
            self._slow_since = None
            return None
        self._slow_since = view.now if self._slow_since is None else self._slow_since
        if view.now < self._quiet_until or view.now - self._slow_since < self._patience or not view.others:
            return None
        self._slow_since = None
        # A server may never reach what the one before did; measure it by what it shows from here on.
        self._highest = self._rate
        return view.others[view.received % len(view.others)]
