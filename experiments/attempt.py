"""One attempt at a trial: a process of its own (experiments.trial), which gets a time, and is ended after it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from experiments import scenarios
from experiments.ledger import INTERRUPTED, UNJUDGED, Attempt
from experiments.plan import Trial
from testbed import results
from testbed.processes import PATIENCE

TRIAL = (sys.executable, "-m", "experiments.trial")
GRACE = 15.0
"""Seconds for a trial to end when told to; its sandbox kills what is left after 10."""


def seconds(trial: Trial) -> float:
    """That the trial may take; then it hangs."""
    usual = scenarios.named(trial.scenario).seconds
    return PATIENCE * (usual + sum(float(trial.factors.get(name, 0)) for name in ("before", "after")))


@dataclass(frozen=True)
class Site:
    """Where trials are performed."""

    directory: Path
    """Gets runs/<run-id>."""
    limits: Path | None = None
    command: Sequence[str] = TRIAL
    inherited: Sequence[int] = ()
    """Descriptors that a trial keeps open."""

    def perform(self, trial: Trial, attempt: Attempt, patience: float | None = None) -> None:
        """Perform the trial; what came of it is in `attempt`: UNJUDGED where all went well.

        `patience`: seconds that it may take. When interrupted, it is ended cleanly, and KeyboardInterrupt goes on.
        """
        begun = time.monotonic()
        patience = seconds(trial) if patience is None else patience
        with tempfile.TemporaryFile() as output:
            try:
                code = self._run(trial, attempt.run, patience, output)
                attempt.verdict, attempt.reason = self._outcome(attempt.run, code, output)
                if code is None:
                    self._invalid(attempt, f"it hung: it was ended after {patience:g} s")
            except KeyboardInterrupt:
                self._invalid(attempt, "its runner was told to stop")
                attempt.verdict = INTERRUPTED
                raise
            finally:
                attempt.seconds = round(time.monotonic() - begun, 2)
                self._keep(attempt.run, output)

    def _run(self, trial: Trial, run: str, patience: float, output: IO[bytes]) -> int | None:
        """The exit code; None: it hung."""
        command = [*self.command, trial.as_json(), "--results", str(self.directory), "--run", run]
        command += ["--parent", str(os.getpid())]
        command += [] if self.limits is None else ["--limits", str(self.limits)]
        # A session of its own: Ctrl-C reaches the runner only, which then ends the trial in its own way.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            pass_fds=self.inherited,
        )  # fmt: skip
        _processes.add(process)
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                with uninterrupted():
                    _end(process)
            _processes.discard(process)

    def _outcome(self, run: str, code: int | None, output: IO[bytes]) -> tuple[str, str]:
        metadata = self._metadata(run)
        if code == 0 and metadata:
            doubts = "; ".join(metadata.get("fidelity", {}).get("exceeded", []))
            unjudged = metadata["verdict"] == "invalid" and metadata["reason"] == results.UNJUDGED
            return (UNJUDGED, doubts) if unjudged else (metadata["verdict"], metadata["reason"])
        said = _last_line(output) or "it said nothing"
        return "invalid", metadata.get("reason") or f"it ended with {code}: {said}"

    def _invalid(self, attempt: Attempt, reason: str) -> None:
        attempt.verdict, attempt.reason = "invalid", reason
        if self._metadata(attempt.run):
            results.conclude(self.directory / "runs" / attempt.run, "invalid", reason)

    def _metadata(self, run: str) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            found: dict[str, Any] = json.loads((self.directory / "runs" / run / "run.json").read_text())
            return found
        return {}

    def _keep(self, run: str, output: IO[bytes]) -> None:
        """What it printed, beside what it left."""
        directory = self.directory / "runs" / run
        output.seek(0)
        if directory.exists():
            (directory / "trial.log").write_bytes(output.read())
            results.give_to_invoker(directory / "trial.log")


_processes: set[subprocess.Popen[bytes]] = set()


def end_all() -> None:
    """End the trials that other threads of this process perform."""
    for process in [*_processes]:
        process.terminate()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C pressed again does not disturb what is tidied up here; anywhere but in the main thread, it cannot."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
