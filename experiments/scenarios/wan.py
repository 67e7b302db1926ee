"""Wan: a planned move over long distances: the client far from servers that are near each other, or the reverse.

A client downloads; at the time of the "fault", at which nothing goes wrong, the policy moves the connection once. The
lazy scheme cannot be faster than a round trip between client and new server and one between the servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments.plan import Trial
from experiments.scenario import LINKS, Factor, Scenario
from experiments.stage import Stage
from topologies import running, two_servers, wan

NEAR = 2.0
"""Milliseconds between those that are near each other."""


class WanScenario(Scenario):
    """See above."""

    name = "wan"
    mechanisms = ("mtcp", "reconnect", "quic")
    policy = "oracle"
    factors: ClassVar[Mapping[str, Factor]] = {
        "far": Factor(
            "client",
            "what is far away: the client from both servers, the servers from each other (s1 is near the client), or "
            "nothing: all are equally far, and the servers have a fast control network (switch)",
            ("client", "servers", "switch"),
        ),
        "rtt": Factor(40.0, "round-trip time of what is far [ms]", (10.0, 20.0, 40.0, 80.0, 160.0)),
        "bw": LINKS["bw"],
        "before": Factor(4.0, "undisturbed transfer before the move [s]", small=2.5),
        "after": Factor(4.0, "observed after the move [s]", small=2.5),
    }

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[running.Running]:
        bw, rtt, far = trial.factors["bw"], trial.factors["rtt"], trial.factors["far"]
        if far == "switch":
            return two_servers.running(bw=bw, rtt=rtt, **settings)
        if far == "servers":
            return wan.running(bw=bw, rtt=NEAR, server_rtt=rtt, reverse=True, **settings)
        return wan.running(bw=bw, rtt=rtt, server_rtt=NEAR, **settings)

    def perform(self, stage: Stage) -> None:
        far, rtt = stage.trial.factors["far"], stage.factor("rtt")
        between = {"switch": 0.0, "servers": rtt}.get(str(far), NEAR)
        stage.run.metadata["facts"]["floor"] = {"rtt_client_s2_ms": rtt, "rtt_s1_s2_ms": between}
        stage.set_clock()
        client = stage.start("download")
        stage.fault("a planned move", lambda: None)
        client.finish()
