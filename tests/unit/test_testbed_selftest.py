"""What the self-test makes of what it has measured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from scipy.stats import binom

from testbed.emulation.conditions import Conditions
from testbed.link_probe import LARGEST, Arrival
from testbed.selftest import Measured, binomial_interval, judge, rate_of

ASKED = Conditions(bandwidth=1e8, delay=0.02, jitter=0.003, loss=0.01)
GOOD = Measured("a->b", sent=1000, received=990, reordered=0, delay_ms=20.3, spread_ms=1.1, rate_mbit=99.0)


def test_a_link_that_is_what_was_asked_for() -> None:
    assert judge(ASKED, GOOD) == []
    assert judge(Conditions(), Measured("a->b", 100, 100, 0, 0.02, 0.01)) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"delay_ms": 24.0}, "the delay is 24.00 ms, not 20 ms"),
        ({"delay_ms": 15.0}, "the delay is 15.00 ms"),
        ({"spread_ms": 2.5}, "half of the delays are ± 2.50 ms apart, the jitter was to be 3 ms"),
        ({"spread_ms": 0.02}, "half of the delays are ± 0.02 ms apart"),
        ({"rate_mbit": 94.0 - 1}, "the rate is 93.00 Mbit/s, not 100 Mbit/s"),
        ({"rate_mbit": 106.0}, "the rate is 106.00 Mbit/s"),
        ({"received": 960}, "40 of 1000 frames were lost; of a loss of 1.00%: 1 to 24"),
        ({"received": 1000}, "0 of 1000 frames were lost"),
        ({"reordered": 1}, "1 frames were reordered"),
    ],
)
def test_each_deviation_is_named(change: dict[str, Any], complaint: str) -> None:
    (fault,) = judge(ASKED, replace(GOOD, **change))
    assert fault.startswith(complaint)


def test_nothing_may_be_lost_where_no_loss_was_asked_for() -> None:
    (fault,) = judge(Conditions(), Measured("a->b", 100, 99, 0, 0.02, 0.01))
    assert fault == "1 of 100 frames were lost; of a loss of 0.00%: none"


def test_a_dead_link_has_one_fault() -> None:
    assert len(judge(ASKED, Measured("a->b", 100, 0, 0, None, None, None))) == 1


@pytest.mark.parametrize(
    ("n", "p"), [(0, 0.1), (1000, 0.01), (30_000, 0.001), (50, 0.5), (10, 0.001), (100, 0.0), (100, 1.0)]
)
@pytest.mark.parametrize("confidence", [0.95, 0.9999])
def test_binomial_interval(n: int, p: float, confidence: float) -> None:
    assert binomial_interval(n, p, confidence) == tuple(binom.interval(confidence, n, p))


def test_a_rate_is_that_behind_the_full_bucket() -> None:
    bucket, gap = 15_000, LARGEST * 8 / 10e6 * 1e9  # 10 Mbit/s
    burst = [Arrival(i, 0, i * 1000, LARGEST) for i in range(9)]
    late = [Arrival(9 + i, 0, round(5e6 + i * gap), LARGEST) for i in range(30)]
    assert rate_of([*burst, *late], bucket) == pytest.approx(10, rel=1e-4)
    assert rate_of([*burst, *late[:4]], bucket) is None
    assert rate_of([], bucket) is None


def test_a_rate_without_a_limit_is_not_judged() -> None:
    assert judge(replace(ASKED, bandwidth=math.inf), GOOD) == []


def test_figures_can_be_read() -> None:
    assert str(GOOD) == "a->b: 10 of 1000 lost, 20.30 ms (half of them ± 1.10), 99.0 Mbit/s"
    assert str(Measured("a->b", 100, 0, 0, None, None)) == "a->b: 100 of 100 lost"
