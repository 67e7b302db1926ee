"""What a trial of an experiment leaves beside its captures: when what happened, and what its clients got.

All times here are ns of CLOCK_MONOTONIC, as the programs wrote them; captures have the clock of the day
(`Trial.monotonic`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.run import Run, RunError

LEAST_BEFORE_NS = 1_000_000_000
"""From start to fault; when it is less, there is nothing to compare with."""
MAIN = "client"
"""The client that a trial is about, unless it has only others."""

_FILES = {
    "deliveries": ["monotonic_ns", "bytes", "server"],
    "requests": ["asked_ns", "first_byte_ns", "done_ns", "bytes", "server", "path"],
    "playout": ["segment", "wanted_at_ns", "done_ns"],
}
_TEXTS = ("server", "path")


@dataclass(frozen=True)
class Moments:
    """When the clients began, when something went wrong, when the clients ended."""

    start: int
    fault: int
    end: int

    @property
    def undisturbed(self) -> tuple[int, int] | None:
        """[start, end) of the second half of the time before the fault: what is usual, slow start is over; None if that
        is too short to tell."""
        if self.fault - self.start < LEAST_BEFORE_NS:
            return None
        return (self.start + self.fault) // 2, self.fault

    def since_fault(self, time: Any) -> Any:
        """Seconds from the fault to `time`, a number or an array of them."""
        return (time - self.fault) / 1e9


@dataclass(frozen=True)
class Client:
    """A client program (testbed.clients) and what it wrote; frames without rows where it wrote none.

    deliveries: `monotonic_ns`, `bytes`, `server`: body bytes as the application read them.
    requests: `asked_ns`, `first_byte_ns`, `done_ns` (NaN: not answered to the end), `bytes`, `server`, `path`.
    playout: `segment`, `wanted_at_ns`, `done_ns`.
    """

    name: str
    report: dict[str, Any]
    recorded: bool
    """Whether it wrote down deliveries: a program that does something else has no such metrics."""
    deliveries: pd.DataFrame
    requests: pd.DataFrame
    playout: pd.DataFrame

    @property
    def error(self) -> str:
        """Why it did not end well, or ""."""
        return str(self.report.get("error") or f"exit status {self.report['exit']}") if self.report["exit"] else ""

    @property
    def bytes_right(self) -> bool:
        """Whether it got what was sent: by the hash, or by its word if it looks at every byte."""
        if "every_byte_right" in self.report:
            return bool(self.report["every_byte_right"])
        expected = self.report.get("expected_sha256")
        # Of nothing, nothing is wrong.
        return not self.report.get("bytes") or (bool(expected) and self.report.get("sha256") == expected)

    @property
    def ports(self) -> list[int]:
        """Its ends of its connections, in order."""
        return [int(each["local_port"]) for each in self.report.get("connections", [])]

    @property
    def decisions(self) -> pd.DataFrame:
        """Its own decisions to go to another server: `decided_ns`, `from`, `to`, `why`."""
        rows = [{**each, "decided_ns": each["monotonic_ns"]} for each in self.report.get("decisions", [])]
        return pd.DataFrame(rows, columns=["decided_ns", "from", "to", "why"]).astype({"decided_ns": "int64"})


@dataclass(frozen=True)
class Trial:
    """One trial of a scenario."""

    run: Run

    @classmethod
    def load(cls, path: Path | str) -> Trial:
        """Of the run directory at `path`; RunError if it is no such thing."""
        return cls(Run.load(path, needed=()))

    @property
    def unsupported(self) -> bool:
        """Whether the mechanism cannot do it at all."""
        return self.run.record.get("verdict") == "unsupported"

    @property
    def unfinished(self) -> str:
        """Why the harness did not get to its end, or "": then nothing else of the trial is to be believed."""
        if "capture_drops" in self.run.facts:
            return ""
        return str(self.run.record.get("reason") or "the trial did not end")

    @cached_property
    def moments(self) -> Moments | None:
        """None for a scenario whose clients end when they are done; RunError for what are no moments."""
        moments = self.run.facts.get("moments_ns")
        try:
            return moments and Moments(*(int(moments[name]) for name in ("start", "fault", "end")))
        except (KeyError, TypeError, ValueError):
            raise RunError(f"{self.run.path}/run.json: facts.moments_ns has no start, fault and end") from None

    @cached_property
    def clients(self) -> dict[str, Client]:
        """All of them, by name."""
        reports: dict[str, dict[str, Any]] = self.run.facts.get("clients", {})
        return {name: _client(self.run.path / name, name, report) for name, report in reports.items()}

    @property
    def client(self) -> Client | None:
        """The one that the trial is about; None of a trial that has none, but only measures."""
        return self.clients.get(MAIN) or next(iter(self.clients.values()), None)

    def monotonic(self, wall_ns: Any) -> Any:
        """Times of captures as times of clients, numbers or arrays."""
        return wall_ns - self.run.realtime_minus_monotonic_ns

    def wall(self, monotonic_ns: Any) -> Any:
        """And the other way."""
        return monotonic_ns + self.run.realtime_minus_monotonic_ns

    @property
    def measured(self) -> dict[str, float]:
        """What the scenario itself measured: the numbers in facts.measured, by name."""
        found = self.run.facts.get("measured", {})
        return {name: float(value) for name, value in _numbers(found, "")}

    @property
    def links(self) -> dict[str, float]:
        """What limits a move (analysis.metrics.floor): facts.floor, where they are not simply factors."""
        return {name: float(value) for name, value in _numbers(self.run.facts.get("floor", {}), "")}


def _numbers(value: Any, prefix: str) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [pair for key, each in value.items() for pair in _numbers(each, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, value)] if isinstance(value, (int, float)) and np.isfinite(value) else []


def _client(directory: Path, name: str, report: dict[str, Any]) -> Client:
    if "exit" not in report:
        raise RunError(f"{directory.parent}/run.json lacks facts.clients.{name}.exit")
    recorded = (directory / "deliveries.parquet").exists()
    return Client(
        name, report, recorded, *(_rows(directory / f"{kind}.parquet", columns) for kind, columns in _FILES.items())
    )


def _rows(path: Path, columns: list[str]) -> pd.DataFrame:
    """The rows of the file; none if it is not there. Times that are missing are NaN, and then floats."""
    try:
        return pd.read_parquet(path, columns=columns)
    except FileNotFoundError:
        return pd.DataFrame({name: pd.Series(dtype="str" if name in _TEXTS else "int64") for name in columns})
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
