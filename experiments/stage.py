"""What a scenario has at hand while it is performed: the network, the mechanism, a clock, a client."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.mechanisms.base import Mechanism
from experiments.plan import Trial
from testbed.fidelity import Monitor, exceeded
from testbed.processes import PATIENCE, Program
from testbed.results import Run
from topologies.running import Running

START = 1.0
"""Seconds for a client program to be ready."""
END = 15.0
"""For it to end, and to write what it has seen."""
SPREAD = 0.5
"""Seconds by which the fault's time is random: nothing that is periodic may meet it at the same point each time."""


@dataclass(frozen=True)
class Clock:
    """When what happens: CLOCK_MONOTONIC, in seconds."""

    start_at: float
    """The clients begin."""
    fault_at: float
    end_at: float
    """The clients end."""


class Stage:
    """See above."""

    def __init__(
        self, trial: Trial, run: Run, network: Running, mechanism: Mechanism, files: Sequence[str | int] = ()
    ) -> None:
        """`files`: more options of the file servers."""
        self.files = files
        self.trial, self.run, self.network, self.mechanism = trial, run, network, mechanism
        self.random: random.Random = trial.random()
        self.clock = Clock(0, 0, 0)

    def factor(self, name: str) -> float:
        """A factor that is a number."""
        return float(self.trial.factors[name])

    def set_clock(self, before: float | None = None, after: float | None = None) -> None:
        """Decide when what happens, from now on: the factors `before` and `after` unless told; notes it in the run."""
        before = self.factor("before") if before is None else before
        after = self.factor("after") if after is None else after
        start_at = time.monotonic() + START * PATIENCE
        fault_at = start_at + before + self.random.uniform(0, SPREAD)
        self.clock = Clock(start_at, fault_at, fault_at + after)
        moments = {"start": self.clock.start_at, "fault": self.clock.fault_at, "end": self.clock.end_at}
        self.run.metadata["facts"]["moments_ns"] = {name: int(at * 1e9) for name, at in moments.items()}

    @property
    def policy(self) -> str:
        """The trial's policy; one that is to know the fault's time, or a factor, is told it."""
        if self.trial.policy == "oracle":
            return f"oracle:at={self.clock.fault_at}"
        if self.trial.policy == "every":
            return f"every:bytes={self.factor('bytes'):.0f},at={self.clock.fault_at}"
        return self.trial.policy

    def start(self, workload: str = "download", *options: str | float, name: str = "client") -> Client:
        """Set the mechanism going, and start a client program with this workload; it begins at `clock.start_at`."""
        self.mechanism.set_policy(self)
        return Client(self, workload, [str(option) for option in options], name)

    def wait_until(self, at: float) -> None:
        """Sleep until then."""
        time.sleep(max(0.0, at - time.monotonic()))

    def fault(self, what: str, happen: Callable[[], Any]) -> Any:
        """At the time of the fault, let it `happen`, and note it; what it returns."""
        self.wait_until(self.clock.fault_at)
        begun = time.monotonic_ns()
        result = happen()
        self.run.event("fault", begun, what=what, took_ms=(time.monotonic_ns() - begun) / 1e6)
        return result


class Client:
    """A running `testbed.clients.http`. What it writes is in the run's directory, under its name."""

    def __init__(self, stage: Stage, workload: str, options: list[str], name: str) -> None:
        self._stage, self._name = stage, name
        self._path = options[options.index("--path") + 1] if "--path" in options else "/big"
        self.directory = stage.run.path(name)
        self.directory.mkdir()
        clock, mechanism = stage.clock, stage.mechanism
        servers = ",".join(f"{name}={ip}:{mechanism.port}" for name, ip in stage.network.addresses.items())
        command = [sys.executable, "-m", "testbed.clients.http", workload, "--connect", mechanism.connect]
        command += ["--servers", servers, "--start-at", f"{clock.start_at}", "--end-at", f"{clock.end_at}"]
        command += ["--policy", stage.policy] if mechanism.resumes else []
        command += ["--out", str(self.directory), *mechanism.client_options(stage), *options]
        self._program = Program(stage.network.client, command, stage.run.path(f"{name}.log"))

    def finish(self) -> dict[str, Any]:
        """Wait for its end; what it has to say (client.json), which is noted in the run's facts."""
        clock = self._stage.clock
        patience = max(0.0, clock.end_at - time.monotonic()) + END * PATIENCE
        code = self._program.wait_end(patience / PATIENCE)
        report = self.directory / "client.json"
        if not report.exists():
            last = " | ".join(self._program.output().strip().splitlines()[-3:])
            found: dict[str, Any] = {"exit": code or 1, "error": f"it ended with {code}: {last}", "bytes": 0}
            if code == -signal.SIGKILL:
                self._stage.run.void(f"{self._name} had to be killed: it should have ended {END:g} s before")
        else:
            found = json.loads(report.read_text())
            if not found["started_ns"]:
                self._stage.run.void(f"{self._name} never began: {found['error']}")
            late = {"client_late_ms": found["started_ns"] / 1e6 - clock.start_at * 1e3}
            for reason in exceeded(late, Monitor.limits):
                self._stage.run.void(reason)
            content = self._stage.network.directory / self._path.lstrip("/")
            found["expected_sha256"] = repeated_sha256(content, int(found["bytes"]))
        self._stage.run.metadata["facts"].setdefault("clients", {})[self._name] = found
        return found


def repeated_sha256(path: Path, size: int) -> str:
    """The hash of the first `size` bytes of the file's content, over and over, in hex."""
    digest, left = hashlib.sha256(), size
    while left:
        with path.open("rb") as file:
            while piece := file.read(min(1 << 20, left)):
                digest.update(piece)
                left -= len(piece)
            if not file.tell():
                raise ValueError(f"{path} is empty")
    return digest.hexdigest()
