"""Congestion: other traffic fills the path to S1; S2 is reached by another path.

A client downloads from S1. At the time of the fault, cross traffic begins to cross the path from S1 to the client:
TCP connections of others (iperf3), or UDP at a rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments.plan import Trial
from experiments.scenario import LINKS, TIMES, Factor, Scenario
from experiments.stage import Stage
from testbed.cross_traffic import CrossTraffic
from topologies import dumbbell


class Congestion(Scenario):
    """See above."""

    name = "congestion"
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        **TIMES,
        "cross": Factor(95.0, "UDP cross traffic [Mbit/s]"),
    }

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[dumbbell.Running]:
        return dumbbell.running(second_path=True, bw=trial.factors["bw"], rtt=trial.factors["rtt"], **settings)

    def perform(self, stage: Stage) -> None:
        stage.set_clock()
        client = stage.start("download")
        net = stage.network.net

        def congest() -> CrossTraffic:
            return CrossTraffic(net["x2"], net["x1"], stage.factor("cross"), udp=True, logs=stage.run.directory)

        with stage.fault("cross traffic", congest) as traffic:
            client.finish()
            stage.run.event("cross traffic", **traffic.finish())
