"""What scenarios say about themselves, and what they make of what they measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import mechanisms, moves, scenarios
from experiments.plan import Request, Trial, plan
from experiments.stage import Clock, Stage
from mtcp import policy
from testbed.clients import connecting


@pytest.mark.parametrize("name", scenarios.all_scenarios())
def test_every_scenario_can_be_planned_and_read(name: str) -> None:
    scenario = scenarios.all_scenarios()[name]
    assert name == scenario.name and scenario.__module__ == f"experiments.scenarios.{name.replace('-', '_')}"
    (first, *_) = plan([Request(name, small=True)], 1, seed=1)
    assert first.factors.keys() == scenario.factors.keys()
    assert {trial.mechanism for trial in plan([Request(name)], 1, seed=1)} == {*scenario.mechanisms}
    for factor in scenario.factors.values():
        values = (factor.default, *factor.sweep, *(() if factor.small is None else (factor.small,)))
        assert factor.meaning and all(isinstance(value, type(factor.default)) for value in values)
        assert [factor.parse(str(value)) for value in values] == list(values)


def staged(name: str, policy: str, factors: dict[str, Any]) -> Stage:
    stage = Stage(Trial(name, "mtcp", policy, factors), None, None, mechanisms.named("mtcp"))  # type: ignore[arg-type]
    stage.clock = Clock(1.0, 36141.123456789, 50000.0)
    return stage


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("manual", "manual"),
        ("oracle", "oracle:at=36141.123456789"),
        ("every", "every:bytes=8388608,at=36141.123456789"),
        ("throughput:silence=0.5", "throughput:silence=0.5"),
    ],
)
def test_a_policy_is_told_what_it_cannot_know(given: str, told: str) -> None:
    assert staged("every-send", given, {"bytes": 8 << 20}).policy == told
    policy.make(told)


@pytest.mark.parametrize("name", ["state-size", "recursive", "drain"])
def test_what_only_an_operator_does_is_unsupported_by_mechanisms_that_know_none(name: str) -> None:
    scenario = scenarios.named(name)
    assert scenario.unsupported(Trial(name, "tcp", "manual"))
    assert not scenario.unsupported(Trial(name, "mtcp", "manual"))


def test_times_of_connections() -> None:
    ms = 1_000_000
    rows = [(i * 100 * ms, i * 100 * ms + i * ms, i * 100 * ms + 3 * i * ms) for i in range(1, 102)]
    found = connecting.summary(rows, 2.0)
    assert (found["connections"], found["connections_per_s"]) == (101, 50.5)
    assert (found["connect_ms_median"], found["answer_ms_median"]) == (51, 153)
    assert (found["connect_ms_p99"], found["answer_ms_p99"]) == (100, 300)
    with pytest.raises(ValueError, match="too few"):
        connecting.summary(rows[:1], 2.0)


def test_what_a_move_shipped_is_known_with_the_move(tmp_path: Path) -> None:
    at = {"connection": ["10.0.0.100", 4000], "attempt": 2}
    move = {
        "event": "migration", "monotonic_ns": 9, "connection": "10.0.0.100:4000", "attempt": 2,
        "from": "10.0.0.1:80", "to": "10.0.0.2:80", "decided_ns": 1, "committed_ns": 8,
    }  # fmt: skip
    dumped = {"event": "dumped", "monotonic_ns": 5, **at, "shipped": 1234}
    tmp_path.joinpath("agent-s1.jsonl").write_text(json.dumps(dumped))
    tmp_path.joinpath("agent-client.jsonl").write_text(json.dumps(move))
    *_, merged = moves.merge(tmp_path, {"10.0.0.1": "s1", "10.0.0.2": "s2"})
    assert (merged["from"], merged["to"], merged["shipped"]) == ("s1", "s2", 1234)
