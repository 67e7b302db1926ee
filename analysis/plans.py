"""A plan of trials that has been carried out: results/<experiment>/<plan-id>/ with plan.json and runs/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import observations
from analysis.run import Run, read_object

PLAN = "plan.json"
SCHEMA_VERSION = 1
_FORGOTTEN = "interrupted"
"""Attempts that say nothing at all: whoever ran them was stopped."""


@dataclass(frozen=True)
class Plan:
    """`metadata`: plan.json; empty where somebody has only put runs in a directory. `loaded`: observations.load."""

    path: Path
    metadata: dict[str, Any]
    loaded: pd.DataFrame

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """The plan in the directory; RunError if it is none, or nobody has judged its trials."""
        path = Path(path).resolve()
        metadata = read_object(path / PLAN, schema_version=SCHEMA_VERSION) if (path / PLAN).exists() else {}
        loaded = observations.load(path)
        forgotten = {
            attempt["run"]
            for entry in metadata.get("trials", [])
            for attempt in entry.get("attempts", [])
            if attempt.get("verdict") == _FORGOTTEN
        }
        return cls(path, metadata, loaded[~loaded["run_id"].isin(forgotten)])

    @property
    def name(self) -> str:
        """Of the experiment."""
        return str(self.metadata.get("experiment") or self.path.parent.name)

    @property
    def id(self) -> str:
        """When it was made, and something random."""
        return str(self.metadata.get("plan_id") or self.path.name)

    @property
    def scenarios(self) -> list[str]:
        """In the order of what was asked for, and then of the runs."""
        asked = [str(request["scenario"]) for request in self.metadata.get("requests", [])]
        there = list(self.loaded["scenario"].unique())
        return [name for name in dict.fromkeys([*asked, *there]) if name in there]

    def about(self, scenario: str) -> dict[str, Any]:
        """What plan.json says of a scenario in words: `done`, `factors`; nothing where it is silent."""
        about: dict[str, Any] = self.metadata.get("scenarios", {}).get(scenario, {})
        return about

    @property
    def pending(self) -> int:
        """Trials that have not been performed, or not to their end."""
        judged = set(observations.VERDICTS)
        return sum(entry.get("state") not in judged for entry in self.metadata.get("trials", []))

    def run(self, run_id: str) -> Run:
        """The run of that name; RunError if it is not there."""
        usual = self.path / "runs" / run_id / "run.json"
        return Run.load(next(self.path.rglob(f"{run_id}/run.json"), usual).parent, needed=())

    def runs(self) -> list[Run]:
        """Those that are part of it, with all that is recorded of them."""
        names = set(self.loaded["run_id"])
        found = (Run.load(record.parent, needed=()) for record in sorted(self.path.rglob("run.json")))
        return [run for run in found if run.id in names]
