"""What an experiment consists of: trials, in an order that a seed decides."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from experiments import scenarios
from experiments.scenario import Value


@dataclass(frozen=True)
class Trial:
    """One run of a scenario."""

    scenario: str
    mechanism: str
    policy: str
    factors: Mapping[str, Value] = field(default_factory=dict)
    repetition: int = 1
    seed: int = 1
    """Of all that is random in it. Mechanisms and policies that are to be compared have the same."""

    def random(self) -> random.Random:
        """A generator of its own, the same for the same seed."""
        return random.Random(self.seed)

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Request:
    """What somebody wants to know of one scenario."""

    scenario: str
    settings: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    """Values of factors; each combination is tried. The others are as the scenario says."""
    mechanisms: Sequence[str] = ()
    """Default: the scenario's."""
    policies: Sequence[str] = ()
    """Default: the scenario's."""
    small: bool = False
    """Whether it is to be over soon: no sweeps, shorter times."""


def plan(requests: Sequence[Request], repetitions: int, seed: int) -> list[Trial]:
    """The trials, in the order in which they are to be performed: each repetition of all, shuffled, before the next.

    So what changes slowly in the machine meets all alike, and an experiment that is stopped has whole repetitions.
    """
    order = random.Random(seed)
    trials = []
    for repetition in range(1, repetitions + 1):
        block = [trial for request in requests for trial in _one_of_each(request, repetition, seed)]
        order.shuffle(block)
        trials += block
    return trials


def _one_of_each(request: Request, repetition: int, seed: int) -> Iterator[Trial]:
    scenario = scenarios.named(request.scenario)
    for factors in _combinations(request):
        same = f"{seed} {repetition} {request.scenario} {json.dumps(factors, sort_keys=True)}"
        for mechanism, policy in itertools.product(
            request.mechanisms or scenario.mechanisms, request.policies or (scenario.policy,)
        ):
            yield Trial(request.scenario, mechanism, policy, factors, repetition, random.Random(same).getrandbits(31))


def _combinations(request: Request) -> Iterator[dict[str, Value]]:
    """Each combination of the factors' values."""
    values: dict[str, Sequence[Value]] = {}
    for name, factor in scenarios.named(request.scenario).factors.items():
        usual = factor.default if factor.small is None or not request.small else factor.small
        swept = factor.sweep if not request.small else ()
        values[name] = request.settings.get(name) or swept or (usual,)
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))
