"""State size: how long a move takes, against how much state the application has. (The M-TCP papers' first figure.)

A client that looks at every byte reads a slow, steady stream, so that there is always something new to come and hardly
anything in the connection's queues. Its server's application has exported a state of so many bytes, which cannot be
compressed. An operator moves the connection to and fro between two servers, tens of times; the state is shipped each
time, over a control network of a given bandwidth.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments.moving import ports, to_and_fro
from experiments.plan import Trial
from experiments.scenario import LINKS, Factor, Scenario, only_mtcp
from experiments.stage import Stage
from experiments.strict_client import PORT, StrictClient
from topologies import two_servers

CHUNK, EVERY_US = 100, 2000
"""The stream: bytes, and microseconds from one piece to the next."""
A_MOVE, SPARE = 0.05, 3.0
"""Seconds that each move, and all of a trial, may take beyond what is expected."""


class StateSize(Scenario):
    """See above."""

    name = "state-size"
    mechanisms = ("mtcp",)
    policy = "manual"
    seconds = 150.0
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        "state": Factor(
            0, "application state [bytes]", (0, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000), small=100_000
        ),
        "control_bw": Factor(100.0, "bandwidth of the control network, 0: unlimited [Mbit/s]"),
        "control_rtt": Factor(0.0, "round-trip time between the servers on the control network [ms]"),
        "moves": Factor(30, "moves of a trial", small=5),
        "interval": Factor(0.1, "from one move to the next [s]"),
    }

    def unsupported(self, trial: Trial) -> str:
        return only_mtcp(trial)

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[two_servers.Running]:
        factors = trial.factors
        control = {"control_bw": factors["control_bw"] or None, "control_rtt": factors["control_rtt"] or None}
        return two_servers.running(bw=factors["bw"], rtt=factors["rtt"], **control, **settings)

    def perform(self, stage: Stage) -> None:
        stage.mechanism.set_policy(stage)
        network = stage.network
        network.pool.serve(network.servers, "stream", "--port", PORT, "--state", f"{stage.factor('state'):.0f}")
        seconds = expected(stage)
        size = round(seconds * 1e6 / EVERY_US) * CHUNK
        client = StrictClient(stage, "recv", size, "-c", CHUNK, "-i", EVERY_US)
        outcomes = to_and_fro(stage, int(stage.factor("moves")), stage.factor("interval")).outcomes(seconds)
        client.finish(seconds, ports(outcomes))


def expected(stage: Stage) -> float:
    """Seconds that the stream has to last."""
    times = 2 * (stage.factor("rtt") + stage.factor("control_rtt")) / 1e3
    shipping = stage.factor("state") * 8 / (stage.factor("control_bw") or 1e3) / 1e6
    return stage.factor("moves") * (stage.factor("interval") + times + 1.5 * shipping + A_MOVE) + SPARE
