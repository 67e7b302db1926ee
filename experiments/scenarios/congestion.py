"""Congestion: other traffic fills the path to S1; S2 is reached by another path.

A client downloads from S1. At the time of the fault, cross traffic begins to cross the path from S1 to the client: UDP
at a rate (iperf3), or TCP connections of others, which get as much as the client's connection each.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments.plan import Trial
from experiments.scenario import LINKS, TIMES, Factor, Scenario
from experiments.scenarios.crossing import cross_traffic
from experiments.stage import Stage
from topologies import dumbbell


class Congestion(Scenario):
    """See above."""

    name = "congestion"
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        **TIMES,
        "kind": Factor("udp", "of the cross traffic: udp or tcp", sweep=("udp", "tcp")),
        "cross": Factor(95.0, "UDP [Mbit/s]", least=0.1),
        "flows": Factor(16, "TCP connections", least=1),
    }

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[dumbbell.Running]:
        return dumbbell.running(second_path=True, bw=trial.factors["bw"], rtt=trial.factors["rtt"], **settings)

    def perform(self, stage: Stage) -> None:
        stage.set_clock()
        client = stage.start("download")
        udp = stage.trial.factors["kind"] == "udp"
        others = {"udp_mbit": stage.factor("cross")} if udp else {"flows": int(stage.factor("flows"))}
        with cross_traffic(stage, **others):
            client.finish()
