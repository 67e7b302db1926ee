"""Load: arrivals, bounds, targets."""

from __future__ import annotations

import itertools

import pytest

from testbed import generators
from testbed.errors import TestbedError
from testbed.generators import LIMITS, Until, bounded
from testbed.load.burners import burn
from testbed.load.requests import NOT_MADE, Request, arrivals, summary


def test_arrivals_are_the_same_for_the_same_seed() -> None:
    assert list(arrivals(50, 10, seed=7)) == list(arrivals(50, 10, seed=7)) != list(arrivals(50, 10, seed=8))


def test_arrivals_are_a_poisson_process() -> None:
    rate, seconds = 200, 500.0
    instants = list(arrivals(rate, seconds, seed=3))
    assert instants == sorted(instants) and instants[-1] < seconds
    # Four standard deviations, of the count and of the gaps' coefficient of variation.
    expected = rate * seconds
    assert abs(len(instants) - expected) < 4 * expected**0.5
    gaps = [b - a for a, b in itertools.pairwise(instants)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation / mean == pytest.approx(1, abs=4 / len(gaps) ** 0.5)


@pytest.mark.parametrize("name", ["rate", "seconds", "count", "connections", "processes", "mib"])
def test_all_is_bounded(name: str) -> None:
    most = getattr(LIMITS, name)
    bounded(**{name: most})
    for value in (most + 1, 0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"{name}: .* no more than"):
            bounded(**{name: value})


@pytest.mark.parametrize("text", ["192.0.2.1:80", "127.0.0.1:80", "10.0.0.1", "[2001:db8::1]:80", "s1:80"])
def test_only_the_testbed_is_a_target(text: str) -> None:
    with pytest.raises(ValueError):
        generators.target(text)


def test_targets() -> None:
    assert generators.target("10.0.0.1:80") == ("10.0.0.1", 80)
    assert generators.target("[fd00::1]:80") == ("fd00::1", 80)


@pytest.mark.parametrize("variable", [None, "mtcp-testbed-0"])
def test_it_refuses_the_machines_own_network(monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    if variable is not None:  # what tells that this is a sandbox is not believed alone
        monkeypatch.setenv("MTCP_SANDBOX", variable)
    with pytest.raises(TestbedError, match="hosts of the testbed only"):
        generators.refuse_outside()


def test_a_refusal_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert generators.run("load", dict) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("load: this loads hosts") and len(said.err.splitlines()) == 1


def test_a_summary_counts_everything_and_times_only_what_succeeded() -> None:
    rows = [Request(float(i), i, late_ms=i, latency_ms=10.0 * i, ok=True, bytes=5) for i in range(1, 5)]
    rows += [Request(9.0, 9, latency_ms=10_000, error="timeout"), Request(9.5, 10, error=NOT_MADE)]
    found = summary(rows, 10.0)
    assert (found["requests"], found["ok"], found["failed"], found["not_made"], found["bytes"]) == (6, 4, 2, 1, 20)
    assert found["latency_ms"]["max"] == 40 and found["latency_ms"]["p50"] == 25
    assert summary([], 10.0)["latency_ms"] == {}


def test_the_end_is_bounded_too() -> None:
    with pytest.raises(ValueError, match="seconds"):
        Until(LIMITS.seconds + 1)


def test_work_ends_so_long_after_its_beginning() -> None:
    until = Until(5)
    begun = until.begun
    assert 4 < until.left <= 5 and until.passed >= 0.001
    until.begin()
    assert until.begun > begun and not until.over


@pytest.mark.parametrize(("processes", "steps", "every"), [(2, 3, 1.0), (2, 0, 1.0), (2, 1, 0.0)])
def test_steps_that_make_no_sense_are_refused(processes: int, steps: int, every: float) -> None:
    with pytest.raises(ValueError, match="cannot begin in"):
        burn(processes, 0.5, 1.0, steps=steps, every=every)
