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
from experiments.stage import Stage
from testbed.cross_traffic import CrossTraffic
from topologies import dumbbell

LESS = 0.9
"""Of the UDP asked for: if less was sent, the machine was too busy."""


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
        with stage.fault("cross traffic", lambda: _congest(stage, udp)) as traffic:
            client.finish()
            report = traffic.finish()
        stage.run.event("cross traffic", **report)
        if udp and report["sent_mbit"] < LESS * report["asked_mbit"]:
            stage.run.void(f"the machine was too busy: {report['sent_mbit']:g} Mbit/s of cross traffic")


def _congest(stage: Stage, udp: bool) -> CrossTraffic:
    net, directory = stage.network.net, stage.run.directory
    if udp:
        return CrossTraffic(net["x2"], net["x1"], stage.factor("cross"), udp=True, logs=directory)
    return CrossTraffic(net["x2"], net["x1"], None, streams=int(stage.factor("flows")), logs=directory)
