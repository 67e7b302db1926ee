"""Scenarios by name. Each is a file that reads like its description."""

from __future__ import annotations

from experiments.scenario import Scenario


def named(name: str) -> Scenario:
    """The scenario; KeyError."""
    return all_scenarios()[name]()


def all_scenarios() -> dict[str, type[Scenario]]:
    """All there are, by name, in the order in which reports show them."""
    from experiments.scenarios.congestion import Congestion

    return {kind.name: kind for kind in (Congestion,)}
