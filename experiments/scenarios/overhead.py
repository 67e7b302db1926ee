"""Overhead: what M-TCP costs a connection that never moves, beside plain TCP.

Nothing goes wrong and nothing moves. One of three workloads: large files one after the other on one connection, as fast
as they come; small ones likewise; or connections one after the other with a request on each. The server's application
exports its state at least once a request; it can be made larger, and exported more often, to see what exporting costs.

Captures have only the beginnings and ends of connections: capturing all would cost more than what is measured.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments import measuring
from experiments.plan import Trial
from experiments.scenario import Factor, Scenario
from experiments.stage import END, Stage, repeated_sha256
from testbed.errors import TestbedError
from testbed.processes import Program
from topologies import two_servers

SMALL = "small"
ENDS = "tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0"


class Overhead(Scenario):
    """See above."""

    name = "overhead"
    mechanisms = ("mtcp", "tcp")
    policy = "manual"
    factors: ClassVar[Mapping[str, Factor]] = {
        "workload": Factor("download", "download, requests or connections", ("download", "requests", "connections")),
        "bw": Factor(100.0, "bandwidth of each service link, 0: unlimited [Mbit/s]", (0.0, 100.0)),
        "state": Factor(0, "exported beside the response under way [bytes]"),
        "every": Factor(0, "bytes of a response, then its state is exported; 0: once a response"),
        "seconds": Factor(5.0, "that it lasts", small=2.0),
    }

    def unsupported(self, trial: Trial) -> str:
        other = trial.factors["workload"] == "connections" and trial.mechanism not in ("mtcp", "tcp")
        return "its connections are not those of plain sockets" if other else ""

    def capture(self, trial: Trial) -> str:
        return ENDS

    def files(self, trial: Trial) -> tuple[str | int, ...]:
        return "--state", int(trial.factors["state"]), "--every", int(trial.factors["every"])

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[two_servers.Running]:
        return two_servers.running(bw=trial.factors["bw"] or math.inf, **settings)

    def perform(self, stage: Stage) -> None:
        workload = str(stage.trial.factors["workload"])
        stage.set_clock(before=0.0, after=stage.factor("seconds"))
        if workload == "connections":
            connect(stage)
            return
        client = stage.start("requests", "--path", "/big" if workload == "download" else f"/{SMALL}")
        stage.wait_until(stage.clock.start_at)
        with measuring.cpu_used(stage):
            stage.wait_until(stage.clock.end_at)
        client.finish()


def connect(stage: Stage) -> None:
    """Connections one after the other, by a program of their own; what it measures is noted."""
    stage.mechanism.set_policy(stage)
    server = f"{stage.network.servers[0].IP()}:{stage.mechanism.port}"
    clock, rows = stage.clock, stage.run.path("connections.parquet")
    command = [sys.executable, "-m", "testbed.clients.connecting", server, "--path", f"/{SMALL}", "--out", str(rows)]
    command += ["--start-at", f"{clock.start_at}", "--end-at", f"{clock.end_at}"]
    program = Program(stage.network.client, command, stage.run.path("connecting.log"))
    stage.wait_until(clock.start_at)
    with measuring.cpu_used(stage):
        stage.wait_until(clock.end_at)
    code, said = program.wait_end(END), program.output().strip().splitlines()
    if code:
        raise TestbedError(f"connecting ended with {code}: {said[-1] if said else 'it printed nothing'}")
    found = json.loads(said[-1])
    measuring.note(stage, **found.pop("figures"))
    expected = repeated_sha256(stage.network.directory / SMALL, found["bytes"])
    stage.run.metadata["facts"]["clients"] = {"client": {"exit": 0, "error": "", **found, "expected_sha256": expected}}
