"""Plans: which trials, in which order, with which seeds."""

from __future__ import annotations

from collections import defaultdict

from experiments.plan import Request, Trial, plan

WANTED = (Request("congestion", {"rtt": (10.0, 40.0), "kind": ("udp",)}, ("mtcp", "tcp"), ("throughput", "oracle")),)


def test_each_combination_once_per_repetition() -> None:
    trials = plan(WANTED, 3, seed=7)
    assert len(trials) == 3 * 2 * 2 * 2
    whole = {(t.mechanism, t.policy, t.factors["rtt"], t.repetition) for t in trials}
    assert len(whole) == len(trials)
    assert [t.repetition for t in trials] == sorted(t.repetition for t in trials)


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    assert plan(WANTED, 3, seed=7) == plan(WANTED, 3, seed=7)
    assert [t.seed for t in plan(WANTED, 3, seed=8)] != [t.seed for t in plan(WANTED, 3, seed=7)]


def test_what_is_compared_has_the_same_seed_and_nothing_else_has() -> None:
    seeds = defaultdict(set)
    for trial in plan(WANTED, 3, seed=7):
        seeds[trial.factors["rtt"], trial.repetition].add(trial.seed)
    assert all(len(each) == 1 for each in seeds.values())
    assert len({each.pop() for each in seeds.values()}) == 6


def test_the_order_within_a_repetition_is_shuffled() -> None:
    trials = plan(WANTED, 2, seed=7)
    orders = [[(t.mechanism, t.policy, t.factors["rtt"]) for t in trials if t.repetition == n] for n in (1, 2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_small_experiments_take_the_small_values_unless_told_otherwise() -> None:
    (trial,) = plan([Request("congestion", {"after": (8.0,)}, ("tcp",), small=True)], 1, seed=1)
    assert trial.factors["before"] == 1.5
    assert trial.factors["after"] == 8.0


def test_a_trial_survives_json() -> None:
    for trial in plan(WANTED, 1, seed=7):
        assert Trial.from_json(trial.as_json()) == trial
