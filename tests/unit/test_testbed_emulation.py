"""Conditions of links, and when packets leave a delay line."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.emulation import netem, tbf
from testbed.emulation.conditions import Conditions, LinkError
from testbed.emulation.schedule import Schedule
from testbed.emulation.statistics import DirectionStats, EmulationStats, steps

STEP = 0.001


def releases(schedule: Schedule, until: float) -> list[tuple[float, int, bool]]:
    """All that leaves until then: when, how many, whether they are kept."""
    out = []
    while schedule.runs and schedule.runs[0].due <= until:
        run = schedule.due(schedule.runs[0].due)
        assert run is not None
        out.append((run.due, run.packets, run.kept))
    return out


def delays(schedule: Schedule, count: int, start: float = 0.0) -> list[float]:
    """Of so many packets, one a STEP."""
    result = []
    for i in range(count):
        now = start + i * STEP
        schedule.came(now, 1)
        result.append(schedule.runs[-1].due - now)
    return result


def test_conditions_as_people_write_them() -> None:
    values = {"bw": "100mbit", "delay": "40ms", "jitter": 2, "loss": "0.1%", "queue": 100}
    conditions = Conditions().changed(values)
    assert conditions == Conditions(100e6, 0.04, 0.002, pytest.approx(0.001), 100)
    assert conditions.changed({}) == conditions
    assert conditions.changed(dict.fromkeys(values)) == Conditions(math.inf, 0, 0, 0, 250)


@pytest.mark.parametrize(
    "values",
    [
        {"bw": 0},
        {"bw": "200gbit"},
        {"delay": "2 minutes"},
        {"delay": "61s"},
        {"delay": 1, "jitter": 2},
        {"loss": 101},
        {"queue": 0},
        {"queue": "many"},
    ],
    ids=str,
)
def test_conditions_that_cannot_be(values: dict[str, object]) -> None:
    with pytest.raises(LinkError):
        Conditions().changed(values)


def test_packets_leave_after_the_delay_and_in_order() -> None:
    schedule = Schedule(1, delay=0.02)
    assert schedule.due(1.0) is None
    schedule.came(1.0, 3)
    schedule.came(1.005, 2)
    assert schedule.due(1.0199) is None
    assert schedule.due(1.0201) == (pytest.approx(1.02), 3, True)
    assert schedule.due(1.0201) is None
    schedule.came(1.006, 1)
    assert schedule.due(2.0) == (pytest.approx(1.025), 3, True)  # both that are due at once
    assert not schedule.runs


def test_a_longer_delay_is_in_force_at_once() -> None:
    schedule = Schedule(1, delay=0.005)
    delays(schedule, 100)
    schedule.set(0.08, 0.0, 0.0)
    assert delays(schedule, 100, start=0.1) == pytest.approx([0.08] * 100)


def test_a_shorter_delay_comes_about_without_reordering_or_a_burst() -> None:
    schedule = Schedule(1, delay=0.08)
    delays(schedule, 100)
    schedule.set(0.005, 0.0, 0.0)
    after = delays(schedule, 200, start=0.1)
    assert after[149:] == pytest.approx([0.005] * 51)
    assert after[:10] == pytest.approx([0.08 - STEP / 2 * (i + 1) for i in range(10)])
    left = [run.due for run in schedule.runs]
    assert min(b - a for a, b in itertools.pairwise(left)) == pytest.approx(STEP / 2)


def test_jitter_keeps_the_mean_and_the_bounds() -> None:
    measured = delays(Schedule(7, delay=0.02, jitter=0.005), 100_000)
    assert min(measured) >= 0.015
    assert max(measured) <= 0.025
    assert statistics.fmean(measured) == pytest.approx(0.02, abs=0.0003)
    assert statistics.pstdev(measured) == pytest.approx(0.47 * 0.005, rel=0.1)


def test_jitter_of_rare_packets_is_drawn_for_each() -> None:
    schedule = Schedule(3, delay=0.02, jitter=0.005)
    measured = []
    for i in range(1000):
        schedule.came(float(i), 1)
        measured.append(schedule.runs[-1].due - i)
    assert statistics.fmean(measured) == pytest.approx(0.02, abs=0.0006)
    assert statistics.pstdev(measured) == pytest.approx(0.005 / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.3, 1.0])
def test_so_many_are_lost_and_always_the_same(loss: float) -> None:
    fates = []
    for batch in (1, 64):  # how packets come does not matter
        schedule = Schedule("seed", loss=loss)
        for i in range(0, 32_000, batch):
            schedule.came(i * STEP, batch)
        fates.append([kept for _, packets, kept in releases(schedule, math.inf) for _ in range(packets)])
        assert schedule.lost == fates[-1].count(False)
    assert fates[0] == fates[1]
    deviation = math.sqrt(32_000 * loss * (1 - loss))
    assert abs(fates[0].count(False) - 32_000 * loss) <= 4 * deviation
    other = Schedule("other seed", loss=loss)
    other.came(0.0, 32_000)
    same = [kept for _, packets, kept in releases(other, math.inf) for _ in range(packets)] == fates[0]
    assert same is (loss in (0.0, 1.0))


settings = st.tuples(st.floats(0, 0.1), st.floats(0, 1), st.sampled_from([0.0, 0.1, 1.0]))


@given(st.integers(), st.lists(st.tuples(st.floats(0, 0.05), st.integers(1, 70), st.none() | settings), max_size=60))
def test_whatever_is_set_nothing_is_reordered_or_forgotten(
    seed: int, events: list[tuple[float, int, tuple[float, float, float] | None]]
) -> None:
    schedule = Schedule(seed)
    now, came, left, last = 0.0, 0, 0, -math.inf
    most = 0.0
    for pause, packets, change in events:
        now += pause
        if change is not None:
            delay, part, loss = change
            schedule.set(delay, delay * part, loss)
            most = max(most, delay * (1 + part))
        schedule.came(now, packets)
        came += packets
        for due, count, _ in releases(schedule, now):
            assert last <= due <= now
            last, left = due, left + count
    for due, count, _ in releases(schedule, math.inf):
        assert last <= due <= now + most + 1e-9
        last, left = due, left + count
    assert left == came


def test_what_tc_is_told() -> None:
    conditions = Conditions(100e6, 0.04, 0.0025, 0.001, 100)
    assert tbf.command("1b", conditions).endswith(
        "dev 1b root handle 1: tbf rate 100000000bit burst 15000 limit 151400"
    )
    assert "rate 1000000000bit burst 150000" in tbf.command("1b", Conditions(bandwidth=1e9))
    assert "rate 100000000000bit burst 15000000" in tbf.command("1b", Conditions(delay=1.0))
    assert netem.command("1b", conditions).endswith("delay 40000us 2500us loss random 0.100000% rate 100gbit")
    assert netem.command("1b", Conditions()).endswith("netem limit 100000 delay 0us rate 100gbit")


def test_statistics_of_an_interval() -> None:
    before = DirectionStats(packets=10, lost=1, most_under_way=5, lateness={0: 8, 3: 1})
    now = DirectionStats(packets=110, lost=3, dropped=2, under_way=4, most_under_way=7, lateness={0: 8, 3: 91, 99: 8})
    stats = EmulationStats("delay-line", True, 1.5, 20, {"a->b": now, "b->a": DirectionStats(packets=1)})
    between = stats.since(EmulationStats("delay-line", True, 1.0, 5, {"a->b": before}))
    assert (between.cpu, between.wakeups) == (0.5, 15)
    expected = DirectionStats(packets=100, lost=2, dropped=2, under_way=4, most_under_way=7, lateness={3: 90, 99: 8})
    assert between.directions == {"a->b": expected, "b->a": DirectionStats(packets=1)}
    assert [between.lateness(q) for q in (0.5, 0.9, 0.99)] == pytest.approx([4e-5, 4e-5, 1e-3])
    assert EmulationStats("tbf").lateness(0.5) == 0.0


def test_lateness_is_counted_to_two_digits() -> None:
    assert [steps(1e-5 * late) for late in (0, 0.9, 42.5, 99.5, 123.5, 1299, 9999, 10_000, 1e9)] == [
        *(0, 0, 42, 99, 120, 1200, 9900, 10_000, 10_000)
    ]
    for late in (5e-6, 0.00042, 0.00987, 0.0555):
        stats = EmulationStats("delay-line", directions={"a->b": DirectionStats(lateness={steps(late): 1})})
        assert late <= stats.lateness(1) <= late * 1.1 + 1e-5
