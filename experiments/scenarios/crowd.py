"""What overload and denial of service have in common: others, behind a link of their own, who trouble S1 alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments import mechanisms
from experiments.plan import Trial
from experiments.scenario import LINKS, TIMES, Factor, Scenario
from experiments.stage import Stage
from testbed import cpu
from testbed.generators import Generator
from topologies import dos
from topologies.running import HTTP_PORT, Running

WORKLOADS = ("download", "requests")
ENOUGH = 0.8
"""Of what was to trouble S1, must have come about."""


class Crowd(Scenario):
    """Such a scenario. Servers are small machines, each with a share of a core; nobody troubles S2.

    A server in trouble is silent for a second and more, and then sends for a fifth of one: hence the policy. Without
    `silence`, those who cannot know that the client waits, agents, would see less than applications do.
    """

    policy = "throughput:silence=0.5"
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        **TIMES,
        "workload": Factor("download", "of the client: download, or requests for 1 MB in turn", choices=WORKLOADS),
        "cores": Factor(0.25, "that each server has", least=0.05),
    }

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[Running]:
        return dos.running(bw=trial.factors["bw"], rtt=trial.factors["rtt"], **settings)

    def capture(self, trial: Trial) -> str:
        # The others' packets would be more than all the rest.
        return f"({mechanisms.named(trial.mechanism).capture}) and not net {dos.CROWD}"

    def perform(self, stage: Stage) -> None:
        troubles = self.troubles(stage, _service(stage))
        for server in stage.network.servers:
            cpu.set_cpu(server, stage.factor("cores"))
        stage.run.limits({host.name: host.limits for host in stage.network.hosts})
        stage.set_clock()
        workload = str(stage.trial.factors["workload"])
        client = stage.start(workload, "--path", "/big" if workload == "download" else "/medium")
        stage.fault(", ".join(each.name for each in troubles), lambda: _begin(troubles))
        client.finish()
        for server in stage.network.servers:  # or the reports take long
            cpu.set_cpu(server, None)
        for trouble in troubles:
            _note(stage, trouble)

    def troubles(self, stage: Stage, target: str) -> list[Generator]:
        """Start what is to begin at the fault, and lasts (`until_end`) as long as the trial; it waits.

        `target`: ADDRESS:PORT of S1's file server.
        """
        raise NotImplementedError


def until_end(stage: Stage) -> tuple[str | float, ...]:
    """Options of generators that begin at the fault."""
    return "--wait", "--seconds", stage.factor("after")


def _begin(troubles: list[Generator]) -> None:
    for trouble in troubles:
        trouble.begin()


def _note(stage: Stage, trouble: Generator) -> None:
    """Note what it came to; the run is void if that was not what was asked for."""
    report = trouble.result()
    stage.run.event("load", what=trouble.name, **report)
    asked = report.get("asked_rate", 0.0)
    if asked and report["rate"] < ENOUGH * asked:
        stage.run.void(f"the machine was too busy: {report['rate']:g} of {asked:g} a second by {trouble.name}")


def _service(stage: Stage) -> str:
    """ADDRESS:PORT of S1's file server, for others: they use TCP."""
    network = stage.network
    if stage.mechanism.connect == "quic":
        options = ("--plain", "--port", HTTP_PORT, "--directory", network.directory)
        network.pool.serve(network.servers[:1], "files", *options, name="others-files")
    return f"{network.addresses['s1']}:{HTTP_PORT}"
