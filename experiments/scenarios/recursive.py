"""Recursive: one connection moves on and on in a pool of servers, each time the instant the last move has committed.

The server that it comes to has hardly begun when it is left again: its application may not have exported anything yet,
and may still be swallowing what the client has already. The client looks at every byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments.moving import on_and_on, ports
from experiments.plan import Trial
from experiments.scenario import LINKS, Factor, Scenario, only_mtcp
from experiments.stage import Stage
from experiments.strict_client import PORT, StrictClient
from topologies import pool, running

CHUNK, EVERY_US = 16_000, 4_000
"""The stream: bytes, and microseconds from one piece to the next: 32 Mbit/s."""
A_MOVE = 0.05
"""Seconds that a move takes at most, in the mean, beside its round trips."""
SPARE = 3.0


class Recursive(Scenario):
    """See above."""

    name = "recursive"
    mechanisms = ("mtcp",)
    policy = "manual"
    seconds = 120.0
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        "servers": Factor(3, "servers of the pool"),
        "moves": Factor(100, "moves of a trial", small=10),
    }

    def unsupported(self, trial: Trial) -> str:
        return only_mtcp(trial)

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[running.Running]:
        factors = trial.factors
        return pool.running(int(factors["servers"]), 1, bw=factors["bw"], rtt=factors["rtt"], **settings)

    def perform(self, stage: Stage) -> None:
        stage.mechanism.set_policy(stage)
        network, moves = stage.network, int(stage.factor("moves"))
        network.pool.serve(network.servers, "stream", "--port", PORT)
        seconds = moves * (2 * stage.factor("rtt") / 1e3 + A_MOVE) + SPARE
        size = round(seconds * 1e6 / EVERY_US) * CHUNK
        client = StrictClient(stage, "recv", size, "-c", CHUNK, "-i", EVERY_US)
        outcomes = on_and_on(stage, moves).outcomes(seconds)
        client.finish(seconds, ports(outcomes))
