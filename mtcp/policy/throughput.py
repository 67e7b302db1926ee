"""The client leaves a server whose data comes too slowly, as in the M-TCP papers' own experiments.

The smoothed inbound rate is compared with the highest one that this server has shown on the connection.
"""

from __future__ import annotations

import math

from mtcp.policy.base import View
from mtcp.policy.detector import Detector
from mtcp.policy.dialogue import Dialogue

SMOOTHING = 0.2
"""Time constant of the smoothed rate, seconds."""
LONG = 3
"""Of such a multiple of the patience is the time constant of the mean over bursts and gaps."""


class Throughput(Detector):
    """Moves when a transfer becomes slow: its smoothed rate falls below a fraction of the highest one.

    `fraction`: that. `patience`: seconds for which it must be so, counted from the first sample that was; time in which
    nothing was asked for does not count. Where data comes in bursts, the mean over LONG times the patience counts as
    well. `holdoff`: Detector's. `floor`: bytes per second; what never was faster is no bulk transfer, and stays.
    `silence`: seconds without data after which a transfer counts as too slow although all that was asked for may have
    been answered; 0: never.

    Source: Sultan, Srinivasan, Iyer, Iftode: "Migratory TCP: Connection Migration for Service Continuity in the
    Internet" (ICDCS 2002), where the client migrates when its throughput falls; hysteresis and hold-off are ours.

    It errs where a server has less to send than before; where a transfer stops altogether it stays, unless `silence`
    is given or the application says that it waits.
    """

    interval = 0.05

    def __init__(
        self,
        fraction: float = 0.4,
        patience: float = 0.5,
        holdoff: float = 5.0,
        floor: float = 50_000.0,
        silence: float = 0.0,
    ) -> None:
        """ValueError when a parameter makes no sense."""
        super().__init__(holdoff)
        if not 0 < fraction < 1 or patience <= 0 or floor < 0 or silence < 0:
            raise ValueError("throughput needs 0 < fraction < 1, patience > 0, floor >= 0 and silence >= 0")
        self._fraction, self._patience, self._floor, self._silence = fraction, patience, floor, silence
        self._rate = 0.0

    def begin(self, view: View) -> None:
        # It may never reach what the one before did: it is measured by what it shows.
        self._rate = self._highest = self._mean = 0.0
        self._counted = view
        self._low_for = self._slow_for = 0.0
        self._dialogue = Dialogue(view)

    def suffers(self, last: View, view: View) -> bool:
        self._dialogue.follow(last, view)
        if self._dialogue.full:
            self._counted, self._low_for, self._slow_for = view, 0.0, 0.0
            return False
        if view.sent > last.sent and self._counted.now < last.now:
            # Between an answer and the next request nothing was to be expected.
            self._counted = last
        if view.received == last.received and not self._dialogue.waiting:
            quiet = view.now - self._dialogue.heard_at
            if self._silence and quiet >= self._silence and self._highest >= self._floor:
                return True
            return quiet <= SMOOTHING and self._is_slow(0.0)
        if self._counted.now < last.now:
            # More of an answer, after a gap.
            self._count(0, min(last.now - self._counted.now, LONG * self._patience))
        elapsed = view.now - last.now
        sample = self._count(view.received - last.received, elapsed)
        self._counted = view
        return self._is_slow(sample)

    def _is_slow(self, sample: float) -> bool:
        if self._highest < self._floor:
            return False
        enough = self._fraction * self._highest
        return self._mean < enough or (sample < enough and self._slow_for >= self._patience)

    def _count(self, received: int, elapsed: float) -> float:
        """Count so many bytes in so many seconds; the rate of these."""
        sample = received / elapsed
        self._rate += (1 - math.exp(-elapsed / SMOOTHING)) * (sample - self._rate)
        self._mean += (1 - math.exp(-elapsed / (LONG * self._patience))) * (sample - self._mean)
        if self._rate > self._highest:
            self._highest = self._mean = self._rate
        enough = self._fraction * self._highest
        self._low_for = 0.0 if sample >= enough else self._low_for + elapsed
        if self._rate >= enough or self._highest < self._floor:
            self._slow_for = 0.0
        else:
            self._slow_for = max(self._slow_for + elapsed, self._low_for)
        return sample
