"""Are the links what was asked for? Every direction of every link is measured before a run.

    selftest.check(net, run)        # 1-2 s for three hosts; run.json has the figures

Probes are frames of our own (testbed.link_probe), so hosts need no addresses and each direction is judged by itself:

    delay, jitter   small frames, one each few milliseconds, on all links at once: the median of their times
                    on the way, and how far apart these are
    loss            what did not arrive of those, and of some hundreds more where loss was asked for
    rate            full-sized frames, faster than the bottleneck lets them pass, on one link after the other:
                    bytes and times of those that arrive, without the first, for which the token bucket is full

Frames are not split from super-packets, so the hosts' offloads do not matter, nor what TCP makes of the link.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from testbed.emulation import tbf
from testbed.errors import TestbedError
from testbed.link_probe import LARGEST, SMALLEST, Arrival, Port, ports, realtime
from testbed.links import Conditions

if TYPE_CHECKING:
    from testbed.results import Run

INTERVAL = 0.005
"""Seconds between two small frames of a direction."""
SECONDS = 0.4
"""For delays; for lost frames; and about so long for all rates of three hosts."""
FEWEST = 12
"""Frames that a rate is told from."""
ATTEMPTS = 3
"""At a link that seems to be wrong: what else the machine does disturbs one, but hardly the next."""
LATE = 0.2
"""Seconds that frames may come later than the links say before they are lost."""


class SelfTestError(TestbedError):
    """A link is not what was asked for."""


@dataclass(frozen=True)
class Tolerances:
    """Wide enough for a busy machine: what is wrong by more is another link."""

    delay_ms: float = 1.0
    """By which the median may be late or early."""
    delay: float = 0.02
    """And this share of the delay."""
    spread_ms: float = 0.3
    jitter: float = 0.2
    """And this share of the jitter: by which the spread may be off."""
    rate: float = 0.05
    confidence: float = 0.9999
    """Of the binomial interval that the count of lost frames must be in: one good link in 10,000 is refused."""


@dataclass(frozen=True)
class Measured:
    """One direction of a link. None: not measured."""

    direction: str
    """Such as "s1-eth0->sw1-eth1"."""
    sent: int
    received: int
    reordered: int
    delay_ms: float | None
    """Median time on the way."""
    spread_ms: float | None
    """Half of what lies between the earliest and the latest quarter of the times on the way."""
    rate_mbit: float | None = None
    """Mbit/s, Ethernet headers included."""

    def __str__(self) -> str:
        parts = [f"{self.sent - self.received} of {self.sent} lost"]
        if self.delay_ms is not None:
            parts.append(f"{self.delay_ms:.2f} ms (half of them ± {self.spread_ms:.2f})")
        if self.rate_mbit is not None:
            parts.append(f"{self.rate_mbit:.1f} Mbit/s")
        return f"{self.direction}: {', '.join(parts)}"


def judge(asked: Conditions, measured: Measured, tolerances: Tolerances = Tolerances()) -> list[str]:
    """What is wrong with a direction, in words."""
    wrong = []
    low, high = binomial_interval(measured.sent, asked.loss, tolerances.confidence)
    lost = measured.sent - measured.received
    if not low <= lost <= high:
        expected = f"{low} to {high}" if high else "none"
        wrong.append(f"{lost} of {measured.sent} frames were lost; of a loss of {asked.loss:.2%}: {expected}")
    if measured.reordered:
        wrong.append(f"{measured.reordered} frames were reordered")
    if measured.delay_ms is not None and measured.spread_ms is not None:
        delay, jitter = asked.delay * 1e3, asked.jitter * 1e3
        # Of few independent draws the median is known to a part of the jitter only.
        slack = tolerances.delay_ms + tolerances.delay * delay + jitter / 2
        if abs(measured.delay_ms - delay) > slack:
            wrong.append(f"the delay is {measured.delay_ms:.2f} ms, not {delay:g} ms")
        # A third for the delay line's wave, a half for what is uniform (netem).
        low_ms = jitter * (1 / 3 - tolerances.jitter) - tolerances.spread_ms
        high_ms = jitter * (1 / 2 + tolerances.jitter) + tolerances.spread_ms
        if not low_ms <= measured.spread_ms <= high_ms:
            wrong.append(
                f"half of the delays are ± {measured.spread_ms:.2f} ms apart, the jitter was to be {jitter:g} ms"
            )
    if measured.rate_mbit is not None and asked.bandwidth < math.inf:
        rate = asked.bandwidth / 1e6
        # Loss behind the bottleneck is missing in what arrives.
        if not rate * (1 - tolerances.rate - asked.loss) <= measured.rate_mbit <= rate * (1 + tolerances.rate):
            wrong.append(f"the rate is {measured.rate_mbit:.2f} Mbit/s, not {rate:g} Mbit/s")
    return wrong


def binomial_interval(count: int, probability: float, confidence: float) -> tuple[int, int]:
    """Between which numbers of `count` independent events of this probability there are with this confidence."""
    if count == 0 or probability in (0, 1):
        return round(count * probability), round(count * probability)
    from scipy.special import bdtrik  # slow to import, and most links lose nothing

    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.ceil(bdtrik(tails, count, probability))
    return int(low), int(high)


def rate_of(arrivals: Sequence[Arrival], bucket: float) -> float | None:
    """Mbit/s of frames that came through a token bucket of `bucket` bytes, full at the beginning; None of too few."""
    passed = np.cumsum([each.size for each in arrivals])
    first = int(np.searchsorted(passed, bucket, side="right"))  # the first that had to wait
    if len(arrivals) - first < FEWEST // 2:
        return None
    seconds = (arrivals[-1].arrived - arrivals[first].arrived) / 1e9
    return float(passed[-1] - passed[first]) * 8 / seconds / 1e6 if seconds > 0 else None


@dataclass(frozen=True, eq=False)
class _Direction:
    """One of a link's two."""

    link: Any
    name: str
    asked: Conditions
    source: Port
    to: Port


Results = dict[Any, list[tuple[Conditions, Measured]]]
"""By link, what was asked for and what is, in either direction."""


def measure(links: Iterable[Any], seconds: float = SECONDS) -> Results:
    """Measure these links at the same time. TestbedError when one cannot be probed."""
    with ExitStack() as stack:
        directions = []
        for link in links:
            first, second = (stack.enter_context(port) for port in ports(link))
            for asked, source, to in zip(link.conditions, (first, second), (second, first), strict=True):
                directions.append(_Direction(link, f"{source.name}->{to.name}", asked, source, to))
        spaced = _pace(directions, 1, seconds)
        more = _pace([each for each in directions if each.asked.loss], 10, seconds)
        results: Results = {}
        for each in directions:
            measured = _measured(each.name, spaced[each], more.get(each, _Come(0, [])), _rate(each, seconds))
            results.setdefault(each.link, []).append((each.asked, measured))
        return results


def check(
    net: Any, run: Run | None = None, seconds: float = SECONDS, tolerances: Tolerances = Tolerances()
) -> list[Measured]:
    """Measure all links of the Mininet `net` that have conditions; note it in `run`. SelfTestError for what is wrong.

    `seconds` for each of delay and loss; more for what is to be exact. Nobody else may use the links meanwhile.
    """
    begun = time.monotonic()
    found: Results = {}
    doubtful = [link for link in net.links if hasattr(link, "conditions")]
    for _ in range(ATTEMPTS):
        found |= measure(doubtful, seconds)
        doubtful = [link for link in doubtful if any(judge(*each, tolerances) for each in found[link])]
        if not doubtful:
            break
    results = [each for directions in found.values() for each in directions]
    faults = [f"{each[1].direction}: {fault}" for each in results for fault in judge(*each, tolerances)]
    if run is not None:
        run.metadata["selftest"] = {
            "seconds": round(time.monotonic() - begun, 3),
            "tolerances": asdict(tolerances),
            "directions": [{"asked": _finite(asked), **asdict(measured)} for asked, measured in results],
            "faults": faults,
        }
    if faults:
        raise SelfTestError(f"the links are not what was asked for: {'; '.join(faults)}")
    return [measured for _, measured in results]


class _Come(NamedTuple):
    sent: int
    arrivals: list[Arrival]


def _pace(directions: Sequence[_Direction], most: int, seconds: float) -> dict[_Direction, _Come]:
    """Send `most` small frames in every direction every INTERVAL, and wait for them.

    Fewer, where they would use more than a fifth of the bandwidth.
    """
    if not directions:
        return {}
    sent = dict.fromkeys(directions, 0)
    fifth = INTERVAL / 5 / (SMALLEST * 8)
    with realtime():
        begun = time.monotonic()
        for i in range(1, 1 + max(1, round(seconds / INTERVAL))):
            for direction in directions:
                while sent[direction] < math.ceil(i * min(most, direction.asked.bandwidth * fifth)):
                    direction.source.send(direction.to, sent[direction])
                    sent[direction] += 1
            time.sleep(max(0.0, begun + i * INTERVAL - time.monotonic()))
    last = time.monotonic()
    return {each: _Come(count, _arrivals(each, count, last)) for each, count in sent.items()}


def _arrivals(direction: _Direction, sent: int, last: float) -> list[Arrival]:
    """What comes until all is there, or the last, which was sent then, is LATE."""
    come = direction.to.arrivals()
    while len(come) < sent and time.monotonic() < last + direction.asked.delay + direction.asked.jitter + LATE:
        time.sleep(0.01)
        come += direction.to.arrivals()
    return come


def _rate(direction: _Direction, seconds: float) -> float | None:
    """Mbit/s behind the bottleneck while more comes than it lets pass; None where there is none."""
    bandwidth = direction.asked.bandwidth
    if bandwidth == math.inf:
        return None
    bucket = tbf.bucket(bandwidth)
    first = math.ceil(bucket / LARGEST)
    # For so long that jitter and clocks matter little.
    enough = bandwidth / 8 * max(seconds / 10, 100 * direction.asked.jitter)
    frames = first + max(FEWEST, math.ceil(enough / LARGEST))
    pace = 1.5 * bandwidth / 8 / LARGEST
    with realtime():
        begun, sent = time.monotonic(), 0
        while sent < frames:
            # What fills the bucket at once, then faster than it is filled again.
            due = min(frames, first + int((time.monotonic() - begun) * pace))
            while sent < due:
                direction.source.send(direction.to, sent, LARGEST)
                sent += 1
    # The buffer may be long; what it has no room for does not come.
    queued = min(direction.asked.queue, frames) * LARGEST * 8 / bandwidth
    time.sleep(direction.asked.delay + direction.asked.jitter + queued + 0.02)
    return rate_of(direction.to.arrivals(), bucket)


def _measured(name: str, spaced: _Come, more: _Come, rate: float | None) -> Measured:
    numbers = [each.number for each in spaced.arrivals]
    reordered = sum(later < earlier for earlier, later in itertools.pairwise(numbers))
    times = np.array([(each.arrived - each.sent) / 1e6 for each in spaced.arrivals])
    median, spread = None, None
    if len(times):
        early, middle, late = np.percentile(times, (25, 50, 75))
        median, spread = round(float(middle), 3), round(float(late - early) / 2, 3)
    sent, received = spaced.sent + more.sent, len(spaced.arrivals) + len(more.arrivals)
    return Measured(name, sent, received, reordered, median, spread, None if rate is None else round(rate, 3))


def _finite(asked: Conditions) -> dict[str, Any]:
    return {name: value if value != math.inf else None for name, value in asdict(asked).items()}
