"""Postgres: a database session goes on while the front-end that it is with does not do well any more.

A client does transactions with PostgreSQL, through the front-end on S1, each in four round trips; the database is a
third host. At the time of the fault S1 is left with a small part of a processor. What counts is how long transactions
take, and that the ledger they make agrees with what the client was told. A session in a transaction is held: the move
comes about when it is tried between two.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments.plan import Trial
from experiments.scenario import LINKS, TIMES, Factor, Scenario
from experiments.stage import END, Stage
from testbed import cpu
from testbed import database as postgresql
from testbed.processes import Program, checked
from topologies import database


class Postgres(Scenario):
    """See above."""

    name = "postgres"
    mechanisms = ("mtcp", "tcp", "reconnect")
    policy = "oracle"
    factors: ClassVar[Mapping[str, Factor]] = {
        **LINKS,
        **TIMES,
        "rtt": Factor(4.0, "round-trip time between client and server [ms]"),
        "cores": Factor(0.004, "of a processor that S1 is left with", least=0.001),
        "mode": Factor("transaction", "how it asks", choices=(
            "simple", "extended", "transaction", "pipeline",
        )),
        "think": Factor(0.02, "from one transaction to the next, mean [s]"),
    }  # fmt: skip

    def unsupported(self, trial: Trial) -> str:
        if trial.mechanism not in self.mechanisms:
            return "its connections are not those of plain sockets"
        told = trial.mechanism != "reconnect" or trial.policy.partition(":")[0] == "oracle"
        return "" if told else "its client has no policy of its own but the oracle"

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[database.Running]:
        return database.running(bw=trial.factors["bw"], rtt=trial.factors["rtt"], **settings)

    def perform(self, stage: Stage) -> None:
        network, port = stage.network, database.PORT if stage.mechanism.agents else database.PLAIN_PORT
        books = [sys.executable, "-m", "testbed.clients.ledger"]
        # From the database's host: the client's connections are those that are measured.
        where = ["--host", "127.0.0.1", "--port", str(postgresql.PORT)]
        checked(network.others[0], *books, "prepare", *where)
        stage.set_clock()
        stage.mechanism.set_policy(stage)
        clock, directory = stage.clock, stage.run.path("client")
        servers = ",".join(f"{name}={ip}:{port}" for name, ip in network.addresses.items())
        command = [sys.executable, "-m", "testbed.clients.transactions", "--servers", servers, "--out", str(directory)]
        command += ["--start-at", f"{clock.start_at}", "--end-at", f"{clock.end_at}"]
        command += ["--mode", str(stage.trial.factors["mode"]), "--think", f"{stage.factor('think')}"]
        command += ["--leave-at", f"{clock.fault_at}"] if stage.mechanism.resumes else []
        client = Program(network.client, command, stage.run.path("client.log"))
        s1 = network.servers[0]
        stage.fault("S1's CPU taken", lambda: cpu.set_cpu(s1, stage.factor("cores")))
        stage.wait_until(clock.end_at)
        cpu.set_cpu(s1, None)
        code = client.wait_end(END)
        report = directory / "client.json"
        if not report.exists():
            stage.run.void(f"the client ended with {code}: {client.output().strip()[-300:]}")
            return
        found = json.loads(report.read_text())
        said = ["--said", str(directory / "said.json")]
        out, err, status = network.others[0].pexec([*books, "check", *where, *said])
        if status not in (0, 1) or not out:
            stage.run.void(f"the ledger cannot be checked: {err or out}")
            return
        found["faults"] = json.loads(out)
        found["every_byte_right"] = not found["faults"]
        stage.run.metadata["facts"].setdefault("clients", {})["client"] = found
