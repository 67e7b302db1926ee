"""Drain: a server with many connections is emptied, as before its maintenance (`mtcp drain`).

A client that looks at every byte reads slow streams, many at a time, all from S1. Then S1 asks all of
them to leave. How long that takes, how many leave, and what the clients see of it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments import measuring
from experiments.plan import Trial
from experiments.scenario import LINKS, Factor, Scenario, only_mtcp
from experiments.stage import Stage
from experiments.strict_client import PORT, StrictClient
from testbed.errors import TestbedError
from testbed.processes import PATIENCE, checked
from topologies import two_servers

CHUNK, EVERY_US = 200, 500_000
"""The streams: bytes, and microseconds from one piece to the next."""
TO_ACCEPT = 0.01
"""Seconds for each of them until all have connected; a busy machine takes so long."""
TO_CONNECT = 30.0
"""Seconds for all clients to connect."""


class Drain(Scenario):
    """See above."""

    name = "drain"
    mechanisms = ("mtcp",)
    policy = "hints"
    seconds = 150.0
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        "connections": Factor(1000, "of S1", small=100),
        "seconds": Factor(30.0, "that S1 tries to be empty [s]", small=10.0),
    }

    def unsupported(self, trial: Trial) -> str:
        return only_mtcp(trial, "nobody can ask the clients of such connections to leave")

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[two_servers.Running]:
        return two_servers.running(bw=trial.factors["bw"], rtt=trial.factors["rtt"], **settings)

    def perform(self, stage: Stage) -> None:
        network, seconds = stage.network, stage.factor("seconds")
        stage.mechanism.set_policy(stage)
        network.pool.serve(network.servers, "stream", "--port", PORT, "--asyncio")
        wanted = int(stage.factor("connections"))
        size = round((seconds + 2 + wanted * TO_ACCEPT) * 1e6 / EVERY_US) * CHUNK
        client = StrictClient(stage, "recv", size, "-c", CHUNK, "-i", EVERY_US, "-n", wanted)
        ports = wait_for(stage, wanted)
        begun = time.monotonic_ns()
        out, err, _ = network.servers[0].pexec("mtcp", "drain", "s1", "--json", "--seconds", f"{seconds:g}")
        ended = time.monotonic_ns()
        try:
            result = json.loads(out)
        except ValueError:
            raise TestbedError(f"mtcp drain: {(err or out).strip()}") from None
        stage.run.event("drained", ended, begun_ns=begun, **result)
        found = client.finish(seconds + TO_CONNECT, ports)
        measuring.note(
            stage,
            drain_s=round((ended - begun) / 1e9, 3),
            connections=wanted,
            moved=result["moved"],
            stayed=result["stayed"],
            longest_gap_ms=found["strict"].get("max_gap_ms", math.nan),
        )


def wait_for(stage: Stage, wanted: int) -> list[int]:
    """Until the agents of both ends know so many connections; the client's ports. TestbedError."""
    deadline = time.monotonic() + TO_CONNECT * PATIENCE
    while True:
        rows = json.loads(checked(stage.network.client, "mtcp", "ls", "--json"))
        status = json.loads(checked(stage.network.servers[0], "mtcp", "status", "--json"))
        known = min(len(rows), status["server_connections"])
        if known >= wanted:
            return [int(row["connection"].rpartition(":")[2]) for row in rows]
        if time.monotonic() > deadline:
            raise TestbedError(f"only {known} of {wanted} connections came about")
        time.sleep(0.1)
