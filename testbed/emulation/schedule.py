"""When each packet leaves a delay line, and which are lost. Pure: times come in, what is due comes out.

Packets are never reordered, and never leave more than twice as densely as they came: that would fill the bottleneck
behind the delay line. So the delay falls by no more than half a second a second:

    delay |
     80ms |-----+..
          |     :  '..           set(5 ms) at the +: in force 2 x 75 ms later
      5ms |     :     '-------
          +------------------- time

A longer delay is in force at once. Jitter is a polyline whose corners are 4 jitters apart and anywhere between delay -
jitter and delay + jitter: its slopes are at most a half as well, and its mean is the delay. (Drawing a new delay for
each packet and keeping the order would make the mean longer.) Its standard deviation is 0.47 jitters.
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import NamedTuple

_STEEPEST = 0.5  # seconds a second


class Run(NamedTuple):
    """Packets that came one after the other and share a fate; runs leave in the order in which they came."""

    due: float
    """When they leave, seconds."""
    packets: int
    kept: bool
    """False: they are lost."""


class Schedule:
    """One direction of a delay line. Times are seconds of any one clock."""

    def __init__(self, seed: int | str, delay: float = 0.0, jitter: float = 0.0, loss: float = 0.0) -> None:
        """`seed`: with the same one, the same packets are lost."""
        self.runs: deque[Run] = deque()
        """What is under way, in the order of leaving."""
        self.lost = 0
        """Packets that met with loss so far."""
        random_of = random.Random(seed)
        self._losses = random.Random(random_of.random())  # of its own, so that jitter does not change who is lost
        self._corners = random.Random(random_of.random())
        self._corner = -math.inf  # time of the last corner, with the heights of it and of the next
        self._from = self._to = 0.0
        self._last: tuple[float, float] | None = None  # when packets last came, and the delay they got
        self.set(delay, jitter, loss)

    def set(self, delay: float, jitter: float, loss: float) -> None:
        """Change what happens to the packets that come from now on."""
        if loss != getattr(self, "_loss", None):
            self._loss = loss
            self._until_loss = self._gap()
        self._delay, self._jitter = delay, jitter

    def came(self, now: float, count: int) -> None:
        """`count` packets have come at `now`."""
        due = now + self._delay_of(now)
        while self._until_loss < count:
            kept = int(self._until_loss)
            if kept:
                self.runs.append(Run(due, kept, True))
            self.runs.append(Run(due, 1, False))
            self.lost += 1
            count -= kept + 1
            self._until_loss = self._gap()
        self._until_loss -= count
        if count:
            self.runs.append(Run(due, count, True))

    def due(self, now: float) -> Run | None:
        """The next packets that leave at `now` or before, as many as follow each other; None: none yet."""
        runs = self.runs
        if not runs or runs[0].due > now:
            return None
        due, count, kept = runs.popleft()
        while runs and runs[0].due <= now and runs[0].kept is kept:
            count += runs.popleft().packets
        return Run(due, count, kept)

    def _gap(self) -> float:
        """How many packets pass before the next is lost."""
        if self._loss <= 0:
            return math.inf
        if self._loss >= 1:
            return 0
        return math.floor(math.log(1 - self._losses.random()) / math.log1p(-self._loss))

    def _delay_of(self, now: float) -> float:
        """The delay of packets that come at `now`."""
        delay = self._delay + (self._wave(now) if self._jitter else 0.0)
        if self._last is not None:
            then, before = self._last
            delay = max(delay, before - (now - then) * _STEEPEST)
        self._last = now, delay
        return delay

    def _wave(self, now: float) -> float:
        """The jitter at `now`: on the line from the last corner to the next."""
        span = 2 * self._jitter / _STEEPEST
        if now >= self._corner + span:
            late = now >= self._corner + 2 * span  # nothing came for long: the wave begins anew
            self._from = self._corners.uniform(-1, 1) if late else self._to
            self._to = self._corners.uniform(-1, 1)
            self._corner = now if late else self._corner + span
        return self._jitter * (self._from + (self._to - self._from) * (now - self._corner) / span)
