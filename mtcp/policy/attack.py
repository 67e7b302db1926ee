"""The server asks its clients to leave while it is attacked by those who open connections."""

from __future__ import annotations

import math

from mtcp.policy.serving import HostView, Trouble
from mtcp.wire.options import HintReason

SMOOTHING = 0.3
"""Time constant of the rates, seconds."""


class Attack(Trouble):
    """Asks clients to leave while others flood it with handshakes.

    In trouble when the host sends `cookies` SYN cookies a second, or its listeners drop `drops` SYNs or connections
    a second, or `half_open` handshakes are not complete.

    `patience`, `relief`, `rate`, `holdoff`: Trouble's, ServerPolicy's.

    Source: RFC 4987 on SYN floods; SyncookiesSent, ListenDrops and TCPReqQFullDrop of /proc/net/netstat
    (net/ipv4/proc.c), sockets in SYN_RECV by sock_diag(7).

    It errs where many genuine clients come at once: they look like an attack, and are as good a reason to leave.
    """

    interval = 0.2
    reason = HintReason.ATTACK

    def __init__(
        self,
        cookies: float = 20.0,
        drops: float = 20.0,
        half_open: float = 200.0,
        patience: float = 0.3,
        relief: float = 0.5,
        rate: float = 50.0,
        holdoff: float = 5.0,
    ) -> None:
        """ValueError when a parameter makes no sense."""
        super().__init__(patience, relief, rate, holdoff)
        if cookies <= 0 or drops <= 0 or half_open <= 0:
            raise ValueError("attack needs cookies, drops and half_open above 0")
        self._cookies, self._drops, self._half_open = cookies, drops, half_open
        self._rates = [0.0, 0.0]

    def level(self, last: HostView, view: HostView) -> float:
        elapsed = view.now - last.now
        weight = 1 - math.exp(-elapsed / SMOOTHING)
        for i, (before, now) in enumerate(((last.cookies, view.cookies), (last.drops, view.drops))):
            more = 0 if before is None or now is None else max(0, now - before)
            self._rates[i] += weight * (more / elapsed - self._rates[i])
        cookies, drops = self._rates
        return max(cookies / self._cookies, drops / self._drops, (view.half_open or 0) / self._half_open)
