"""The client leaves a server whose path loses too many packets."""

from __future__ import annotations

import math

from mtcp.policy.base import View
from mtcp.policy.detector import Detector

SMOOTHING = 1.0
"""Time constant of the shares, seconds in which segments came or went."""


class _Share:
    """What part of the segments of late was concerned, and for how long that was too much."""

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._smoothed = 0.0
        self.bad_for = 0.0
        """Seconds."""

    def count(self, part: int, whole: int, elapsed: float) -> None:
        """`part` of `whole` more in the last `elapsed` seconds. By time, not by segments: a path that begins to lose
        carries few."""
        if whole <= 0:
            return
        self._smoothed += (1 - math.exp(-elapsed / SMOOTHING)) * (min(1.0, part / whole) - self._smoothed)
        self.bad_for = self.bad_for + elapsed if self._smoothed > self._bound else 0.0


class Loss(Detector):
    """Moves when too much is lost on the way.

    That is: when, for `patience` seconds, more than `retransmitted` of the segments that the client sends are sent
    again, or more than `out_of_order` of those that it receives come out of order.

    A receiver does not see losses, but what comes after one: all segments from there on until it is mended are out of
    order, a window's worth for a single loss. So its bound is the higher one. `holdoff`: Detector's.

    Source: tcpi_total_retrans and tcpi_rcv_ooopack (net/ipv4/tcp_input.c, tcp_data_queue_ofo); RFC 4737 on how
    reordering and loss look alike.

    It errs where the network reorders. Every TCP loses packets now and then, to find out how fast it may send: that is
    within the bounds on the testbed's links. Where nothing arrives any more, nothing is out of order: that is for
    `stall`.
    """

    interval = 0.05
    wants_kernel = True

    def __init__(
        self, out_of_order: float = 0.08, retransmitted: float = 0.05, patience: float = 1.0, holdoff: float = 5.0
    ) -> None:
        """ValueError when a parameter makes no sense."""
        super().__init__(holdoff)
        if not 0 < out_of_order < 1 or not 0 < retransmitted < 1 or patience < 0:
            raise ValueError("loss needs 0 < out_of_order < 1, 0 < retransmitted < 1 and patience >= 0")
        self._out_of_order, self._retransmitted, self._patience = out_of_order, retransmitted, patience

    def begin(self, view: View) -> None:
        self._in, self._out = _Share(self._out_of_order), _Share(self._retransmitted)

    def suffers(self, last: View, view: View) -> bool:
        elapsed = view.now - last.now
        came = _more(last.segments_received, view.segments_received)
        went = _more(last.segments_sent, view.segments_sent)
        self._in.count(_more(last.out_of_order, view.out_of_order), came, elapsed)
        self._out.count(_more(last.retransmitted, view.retransmitted), went, elapsed)
        return max(self._in.bad_for, self._out.bad_for) >= self._patience


def _more(before: int | None, now: int | None) -> int:
    """By how much it grew; 0 where it is unknown, or began anew with another socket."""
    return 0 if before is None or now is None else max(0, now - before)
