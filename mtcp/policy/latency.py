"""The client leaves a server that answers later than it used to."""

from __future__ import annotations

from mtcp.policy.base import View
from mtcp.policy.detector import Detector
from mtcp.policy.dialogue import Dialogue

WEIGHT = 0.25
"""Of the latest answer's time, in the smoothed one."""
STALE = 1.0
"""Seconds after which a sender's round-trip time is of the past."""


class Latency(Detector):
    """Moves when answers come later than they did, or the round-trip time grows.

    That is: when `count` answers in a row began `factor` times later than this server's best, smoothed, and later than
    `least` seconds; or when the round-trip time is so for `patience` seconds. An answer that has not begun yet counts
    with the time for which it has been waited for. `holdoff`: Detector's.

    Source: that a round-trip time above the lowest one is the time in a queue is TCP Vegas' idea (Brakmo, Peterson:
    "TCP Vegas: End to End Congestion Avoidance on a Global Internet", 1995). The kernel's estimate for receivers:
    tcp_rcv_rtt_update in net/ipv4/tcp_input.c. To compare answers with this server's best is ours.

    It errs where requests are not alike: one that takes long by its nature looks like a slow server, from the
    `count`th in a row. A client's own bulk data may fill the bottleneck's queue; with a queue deeper than `factor`
    round-trip times that looks like congestion.
    """

    interval = 0.02
    wants_kernel = True

    def __init__(
        self, factor: float = 3.0, least: float = 0.05, count: float = 3, patience: float = 0.5, holdoff: float = 5.0
    ) -> None:
        """ValueError when a parameter makes no sense."""
        super().__init__(holdoff)
        if factor <= 1 or least < 0 or count < 1 or patience < 0:
            raise ValueError("latency needs factor > 1, least >= 0, count >= 1 and patience >= 0")
        self._factor, self._least, self._count, self._patience = factor, least, count, patience

    def begin(self, view: View) -> None:
        self._dialogue = Dialogue(view)
        self._asked: float | None = None
        self._smoothed: float | None = None
        self._best = float("inf")
        self._late = 0
        self._shortest = float("inf")
        self._far_since: float | None = None

    def suffers(self, last: View, view: View) -> bool:
        self._dialogue.follow(last, view)
        return self._answers_late(last, view) or self._is_far(last, view)

    def _answers_late(self, last: View, view: View) -> bool:
        asks, answers = view.sent > last.sent, view.received > last.received
        if answers and self._asked is not None:
            self._answered((view.now if view.heard_at is None else max(view.heard_at, self._asked)) - self._asked)
            self._asked = None
        elif answers and asks and not self._dialogue.waiting:
            # Both since the last view.
            asked_at = last.now if view.asked_at is None else view.asked_at
            self._answered(max(0.0, (view.now if view.heard_at is None else view.heard_at) - asked_at))
        if asks and self._dialogue.waiting and self._asked is None:
            self._asked = view.now if view.asked_at is None else view.asked_at
        waited = 0.0 if self._asked is None else view.now - self._asked
        # Who waits for as long as several late answers would take needs not wait for them to come.
        return self._late + waited // self._bound >= self._count

    @property
    def _bound(self) -> float:
        """From this time on, an answer is late."""
        return max(self._factor * self._best, self._least)

    def _answered(self, time: float) -> None:
        self._late = self._late + 1 if time >= self._bound else 0
        self._smoothed = time if self._smoothed is None else self._smoothed + WEIGHT * (time - self._smoothed)
        self._best = min(self._best, self._smoothed)

    def _is_far(self, last: View, view: View) -> bool:
        rtt = view.srtt
        if view.now - self._dialogue.asked_at > STALE:
            # Of the last request. The receiver's own estimate counts the server's silence in: only while data flows.
            rtt = view.receive_rtt if view.received > last.received else None
        if rtt is None:
            self._far_since = None
            return False
        self._shortest = min(self._shortest, rtt)
        if rtt < max(self._factor * self._shortest, self._least):
            self._far_since = None
        elif self._far_since is None:
            self._far_since = view.now
        return self._far_since is not None and view.now - self._far_since >= self._patience
