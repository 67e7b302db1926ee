"""The client leaves a server from which nothing comes while the client waits."""

from __future__ import annotations

from mtcp.policy.base import View
from mtcp.policy.detector import Detector
from mtcp.policy.dialogue import Dialogue

UNKNOWN_RTT = 0.1
"""Seconds, as long as nobody has measured it."""


class Stall(Detector):
    """Moves when the client waits, and nothing comes for many round-trip times.

    For `rtts` of them, and for `least` seconds.
    `least` should be longer than the kernel's first retransmission takes (RFC 6298; 0.2 s and the round-trip time in
    Linux, TCP_RTO_MIN in include/net/tcp.h): a single lost request is no stall. `holdoff`: Detector's. `silence`:
    seconds without data after which it moves although all that was asked for may have been answered; 0: never.

    Source: RFC 6298 for `least`; to count the wait in round-trip times is the usual rule of thumb.

    It errs where a server thinks for long before it answers. Where a server becomes silent in the middle of an answer,
    and nothing shows that anything is missing (Dialogue), it stays, unless `silence` is given or the application says
    that it waits.
    """

    interval = 0.02
    wants_kernel = True

    def __init__(self, rtts: float = 10.0, least: float = 0.3, holdoff: float = 5.0, silence: float = 0.0) -> None:
        """ValueError when a parameter makes no sense."""
        super().__init__(holdoff)
        if rtts <= 0 or least < 0 or silence < 0:
            raise ValueError("stall needs rtts > 0, least >= 0 and silence >= 0")
        self._rtts, self._least, self._silence = rtts, least, silence

    def begin(self, view: View) -> None:
        self._dialogue = Dialogue(view)

    def suffers(self, last: View, view: View) -> bool:
        self._dialogue.follow(last, view)
        quiet = view.now - self._dialogue.since
        if self._silence and quiet >= self._silence:
            return True
        rtt = view.srtt or view.min_rtt or UNKNOWN_RTT
        return self._dialogue.waiting and quiet >= max(self._rtts * rtt, self._least)
