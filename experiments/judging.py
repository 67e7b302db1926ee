"""Who did what is not who says how it went: `analysis` judges runs, from outside, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from testbed.errors import TestbedError
from testbed.results import Run


def judge(*runs: Run) -> None:
    """Have finished runs judged and reported on, and note the verdicts. TestbedError when that fails."""
    _analyse("report", *runs)
    _note(*runs)


def judge_bench(run: Run, *parts: Run) -> None:
    """As `judge`, for a run that consists of parts."""
    judge(*parts)
    _analyse("bench", run)
    _note(run)


def judge_round(part: Run) -> None:
    """Have a finished round of a soak judged, and note the verdict. TestbedError when that fails."""
    _analyse("round", part)
    _note(part)


def judge_soak(run: Run) -> None:
    """Have the judged rounds of a soak put together, and note the verdict."""
    _analyse("soak", run)
    _note(run)


def summary(run: Run) -> dict[str, Any]:
    """The figures of a run that has been judged."""
    figures: dict[str, Any] = json.loads(run.path("summary.json").read_text())
    return figures


def _analyse(command: str, *runs: Run) -> None:
    directories = [str(run.directory) for run in runs]
    said = subprocess.run([sys.executable, "-m", "analysis", command, *directories], capture_output=True, text=True)
    if said.returncode:
        last = (said.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TestbedError(f"the analysis failed: {last}")


def _note(*runs: Run) -> None:
    for run in runs:
        figures = summary(run)
        run.finish(figures["verdict"], figures["reason"])
