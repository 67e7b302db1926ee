"""Scenarios by name. Each is a file that reads like its description."""

from __future__ import annotations

from experiments.scenario import Scenario


def named(name: str) -> Scenario:
    """The scenario; KeyError."""
    return all_scenarios()[name]()


def all_scenarios() -> dict[str, type[Scenario]]:
    """All there are, by name, in the order in which reports show them."""
    from experiments.scenarios.congestion import Congestion
    from experiments.scenarios.crash import Crash
    from experiments.scenarios.dos import Dos
    from experiments.scenarios.drain import Drain
    from experiments.scenarios.every_send import EverySend
    from experiments.scenarios.nginx import Nginx
    from experiments.scenarios.overhead import Overhead
    from experiments.scenarios.overload import Overload
    from experiments.scenarios.postgres import Postgres
    from experiments.scenarios.recursive import Recursive
    from experiments.scenarios.state_size import StateSize
    from experiments.scenarios.streaming import Streaming
    from experiments.scenarios.video import Video
    from experiments.scenarios.wan import WanScenario

    kinds = (
        Overload, Congestion, Dos, Streaming, Video, Nginx, Postgres, Crash, Drain, Recursive, WanScenario, StateSize,
        EverySend, Overhead,
    )  # fmt: skip
    return {kind.name: kind for kind in kinds}
