"""Streaming: a film goes on while the server that it comes from does not do well any more.

A client plays media at a constant rate, fetched by segments ahead of play-out into a buffer of some seconds. At the
time of the fault the path from S1 is filled by others, or S1 is left with a part of a processor. What counts is how
long the viewer waits for the buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments.plan import Trial
from experiments.scenario import LINKS, Factor, Scenario
from experiments.scenarios.crossing import cross_traffic
from experiments.stage import Stage
from testbed import cpu
from topologies import dumbbell


class Streaming(Scenario):
    """See above."""

    name = "streaming"
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        "fault": Factor("path", "what goes wrong: path (cross traffic to S1) or cpu (S1's)", ("path", "cpu")),
        "cross": Factor(95.0, "UDP cross traffic [Mbit/s]"),
        "cores": Factor(0.001, "of a processor that S1 is left with"),
        "rate": Factor(20.0, "of the media [Mbit/s]"),
        "segment": Factor(0.5, "of media in a request [s]"),
        "buffer": Factor(2.0, "of media held at most [s]"),
        "before": Factor(5.0, "undisturbed play-out before the fault [s]", small=3.0),
        "after": Factor(12.0, "observed after the fault [s]", small=7.0),
    }

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[dumbbell.Running]:
        return dumbbell.running(second_path=True, bw=trial.factors["bw"], rtt=trial.factors["rtt"], **settings)

    def perform(self, stage: Stage) -> None:
        stage.set_clock()
        media = [word for name in ("rate", "segment", "buffer") for word in (f"--{name}", stage.factor(name))]
        client = stage.start("stream", *media)
        if stage.trial.factors["fault"] == "cpu":
            s1 = stage.network.servers[0]
            stage.fault("S1's CPU taken", lambda: cpu.set_cpu(s1, stage.factor("cores")))
            client.finish()
            cpu.set_cpu(s1, None)
            return
        with cross_traffic(stage, stage.factor("cross")):
            client.finish()
