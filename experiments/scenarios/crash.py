"""Crash: S1's application dies, or its whole host.

A client downloads from S1. At the time of the fault the server's programs there are killed; or the host falls silent,
on all its networks at once, and then everything on it is killed, M-TCP's agent too.

An agent holds its host's connections: that of a dead application can still move. What a dead host had is lost with it:
no mechanism of TCP can continue such a connection, M-TCP neither, and what became of the client is in the result.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments.plan import Trial
from experiments.scenario import LINKS, TIMES, Factor, Scenario
from experiments.stage import Stage
from topologies import two_servers
from topologies.running import SERVICE_SWITCH


class Crash(Scenario):
    """See above."""

    name = "crash"
    policy = "throughput:silence=0.5"
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        **TIMES,
        "dies": Factor("application", "application or host", ("application", "host")),
    }

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[two_servers.Running]:
        # Whatever can be lost later is emulated from the beginning, also on the control network.
        factors = trial.factors
        return two_servers.running(bw=factors["bw"], rtt=factors["rtt"], control_rtt=0.0, **settings)

    def perform(self, stage: Stage) -> None:
        dies = str(stage.trial.factors["dies"])
        stage.set_clock()
        client = stage.start("download")
        stage.fault(f"s1's {dies} dies", lambda: end(stage, everything=dies == "host"))
        client.finish()


def end(stage: Stage, everything: bool) -> None:
    """Kill the services of s1; or silence it, and kill all that runs there."""
    if everything:
        for neighbour in (SERVICE_SWITCH, "s2"):
            stage.network.set("s1", neighbour, loss=100)
    for name, program in stage.network.pool.programs.items():
        what, _, host = name.rpartition("-")
        if host == "s1" and (everything or what != "agent"):
            program.stop(signal.SIGKILL)
