"""What an emulation tells of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class DirectionStats:
    """One direction of a link, since it was made. A super-packet (GSO) counts as one packet in the delay line."""

    packets: int = 0
    """Packets that came to the delay line, or left by the bottleneck or netem where there is none."""
    lost: int = 0
    """Packets lost because loss was asked for. (With netem also what it had no room for; it has room for 100000.)"""
    dropped: int = 0
    """Packets that the bottleneck had no room for. That is congestion, and as it should be."""
    overflow: int = 0
    """Packets that the emulator lost without being asked to: the link was not what it was to be."""
    under_way: int = 0
    """Packets in the delay line now."""
    most_under_way: int = 0
    """The most that ever were."""
    backlog: int = 0
    """Bytes that wait at the bottleneck now."""
    lateness: Mapping[int, int] = field(default_factory=dict)
    """How late packets left the delay line: {`steps`: packets}."""


@dataclass(frozen=True)
class EmulationStats:
    """All links of a network."""

    backend: str
    """"netem", "delay-line", "tbf" or "none"."""
    realtime: bool | None = None
    """Whether the delay line has real-time priority; None without one, as the next two are 0."""
    cpu: float = 0.0
    """Seconds of processor time that the delay line has used."""
    wakeups: int = 0
    directions: Mapping[str, DirectionStats] = field(default_factory=dict)
    """By direction, such as "s1-eth0->sw1-eth1"."""

    def since(self, before: EmulationStats) -> EmulationStats:
        """What has been counted since `before`; what is no counter stays as it is."""
        directions = {
            name: _difference(stats, before.directions.get(name, DirectionStats()))
            for name, stats in self.directions.items()
        }
        cpu, wakeups = self.cpu - before.cpu, self.wakeups - before.wakeups
        return EmulationStats(self.backend, self.realtime, cpu, wakeups, directions)

    def lateness(self, quantile: float) -> float:
        """Seconds by which packets of all directions left late at most, to two digits; 0.0 when there were none.

        `quantile`: 0.5 for the median; at most 1.
        """
        late: Counter[int] = Counter()
        for each in self.directions.values():
            late.update(each.lateness)
        wanted = quantile * late.total()
        for count, packets in sorted(late.items()):
            wanted -= packets
            if wanted <= 0:
                return (count + _width(count)) * _STEP
        return 0.0


_STEP = 1e-5  # seconds
_LATEST = 10_000  # steps


def steps(lateness: float) -> int:
    """Tens of microseconds in `lateness` seconds, with the first two digits only; 10000 for 0.1 s and more."""
    count = int(lateness / _STEP)
    if count < 100:
        return count
    return min(count - count % _width(count), _LATEST)


def _width(count: int) -> int:
    """How many steps count as `count`."""
    return 1 if count < 100 else 10 if count < 1000 else 100


_STATES = ("under_way", "most_under_way", "backlog")


def _difference(now: DirectionStats, before: DirectionStats) -> DirectionStats:
    counts = {
        each.name: getattr(now, each.name) - getattr(before, each.name)
        for each in fields(now)
        if each.name not in (*_STATES, "lateness")
    }
    states = {name: getattr(now, name) for name in _STATES}
    lateness = {step: count - before.lateness.get(step, 0) for step, count in now.lateness.items()}
    return DirectionStats(**counts, **states, lateness={step: count for step, count in lateness.items() if count})
