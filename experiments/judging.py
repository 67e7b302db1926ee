"""Who did what is not who says how it went: `analysis` judges runs, from outside, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from testbed.errors import TestbedError
from testbed.results import Run, Verdict


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


def judge_trials(directories: Sequence[Path]) -> dict[Path, tuple[Verdict, str]]:
    """The verdicts, with reasons, on the runs of trials there. TestbedError when they cannot be judged."""
    _analyse("judge", *directories)
    verdicts = {}
    for directory in directories:
        figures = read_summary(directory)
        verdicts[directory] = figures["verdict"], figures["reason"]
    return verdicts


def report_plan(directory: Path) -> None:
    """Have the figures of a plan whose trials have been judged put together. TestbedError when that fails."""
    _analyse("report", directory)


def summary(run: Run) -> dict[str, Any]:
    """The figures of a run that has been judged."""
    return read_summary(run.directory)


def read_summary(directory: Path) -> dict[str, Any]:
    """The figures of a run or a plan; TestbedError when there are none."""
    try:
        figures: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    except (OSError, ValueError) as error:
        raise TestbedError(f"no figures of {directory}: {error}") from None
    return figures


def _analyse(command: str, *results: Run | Path) -> None:
    directories = [str(each.directory if isinstance(each, Run) else each) for each in results]
    said = subprocess.run([sys.executable, "-m", "analysis", command, *directories], capture_output=True, text=True)
    if said.returncode:
        last = (said.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TestbedError(f"the analysis failed: {last}")


def _note(*runs: Run) -> None:
    for run in runs:
        figures = summary(run)
        run.finish(figures["verdict"], figures["reason"])
