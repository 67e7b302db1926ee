"""The server asks its clients to leave while its processors are overloaded, or its service does not keep up."""

from __future__ import annotations

import math

from mtcp.policy.serving import HostView, Trouble
from mtcp.wire.options import HintReason

SMOOTHING = 1.0
"""Time constant of the shares, seconds: a thread waits or not, so each share alone is nearly all or nothing."""


class Load(Trouble):
    """Asks clients to leave while its service does not get the processors it needs, or does not keep up.

    In trouble when a thread of the service waits for a processor for `delay` of the time, or, where nobody can tell,
    some process of the host for `pressure` of it; or when an accept queue is `queue` full.

    `patience`, `relief`, `rate`, `holdoff`: Trouble's, ServerPolicy's.

    Source: Linux' pressure stall information (Documentation/accounting/psi.rst), run_delay of /proc/PID/schedstat
    (Documentation/scheduler/sched-stats.rst), sk_ack_backlog of listeners by sock_diag(7). Hysteresis as in every load
    balancer's high and low watermarks.

    It errs where a service is slow for another reason: a lock, a disk, a database. Programs that share its host
    and give way to it (nice) do not count against it, unless only the pressure is known.
    """

    reason = HintReason.OVERLOAD

    def __init__(
        self,
        delay: float = 0.3,
        pressure: float = 0.8,
        queue: float = 0.5,
        patience: float = 0.5,
        relief: float = 0.5,
        rate: float = 5.0,
        holdoff: float = 5.0,
    ) -> None:
        """ValueError when a parameter makes no sense."""
        super().__init__(patience, relief, rate, holdoff)
        if not 0 < delay <= 1 or not 0 < pressure <= 1 or not 0 < queue <= 1:
            raise ValueError("load needs delay, pressure and queue above 0 and up to 1")
        self._delay, self._pressure, self._queue = delay, pressure, queue
        self._smoothed = 0.0

    def level(self, last: HostView, view: HostView) -> float:
        share = (view.pressure or 0.0) / self._pressure if view.delay is None else view.delay / self._delay
        self._smoothed += (1 - math.exp((last.now - view.now) / SMOOTHING)) * (share - self._smoothed)
        return max(self._smoothed, (view.queue or 0.0) / self._queue)
