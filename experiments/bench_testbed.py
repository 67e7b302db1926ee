"""The benchmark of the testbed itself: `python -m experiments.bench_testbed` (make bench-testbed).

Each bar (experiments/testbed_bars.py) is measured in sandboxes of its own, one after the other. The observations go to
results/bench-testbed/<run>/samples.parquet, each with how busy the machine was before, without us, and meanwhile; the
analysis makes the table of them that is in docs/testbed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from rich.console import Console
from rich.markdown import Markdown

from experiments.testbed_bars import BARS, Observation
from testbed import machine
from testbed.errors import TestbedError
from testbed.fidelity import Limits, Monitor
from testbed.results import Run

PATIENCE = 240.0
"""Seconds for a bar."""
BEFORE = 0.5
"""Seconds over which is seen what else the machine does."""
PAGE = Path(__file__).parents[1] / "docs" / "testbed.md"
OWN_LOAD = Limits(normal_p99_ms=1e6, realtime_p99_ms=1e6, stall_ms=1e6, stolen=1.0)
"""The benchmark loads the machine on purpose; what else does is in the table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when every bar is met, 1 when one is not."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_testbed", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BARS, metavar="BAR", help=f"of {', '.join(BARS)}")
    parser.add_argument("--page", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        sys.exit("This needs root (network namespaces): run it with sudo.")
    console = Console()
    names = options.only or list(BARS)
    with Run("bench-testbed", scenario="bench-testbed", mechanism="none", factors={"bars": names}) as run:
        rows: list[dict[str, Any]] = []
        failures = {}
        with Monitor(run, limits=OWN_LOAD):
            for name in names:
                try:
                    measured, emulation = measure(name, run.path("logs"), console)
                    rows += measured
                    if emulation:
                        run.metadata["emulation"] = emulation
                except TestbedError as error:
                    failures[name] = str(error)
                    console.print(f"[red]{name}: {error}[/]")
        run.metadata["facts"] = {"bars": names, "failures": failures}
        columns = (*Observation._fields, "busy_before", "busy")
        run.samples(pyarrow.table({name: [row[name] for row in rows] for name in columns}))
        run.finish("invalid", "not judged yet")
        figures = _judged(run, options.page)
        run.finish(figures["verdict"], figures["reason"])
    console.print(Markdown(run.path("table.md").read_text()))
    console.print(f"{run.metadata['verdict']}: {run.metadata['reason']}\n{run.directory}", soft_wrap=True)
    return 0 if run.metadata["verdict"] == "succeeded" else 1


def measure(name: str, logs: Path, console: Console) -> tuple[list[dict[str, Any]], str]:
    """The observations of a bar, and what emulated the links, or "". TestbedError, with what it said, if it failed."""
    _, sandboxes, together = BARS[name]
    begun = time.monotonic()
    before = machine.Load()
    time.sleep(BEFORE)
    busy_before = before.since_start()["busy"]
    logs.mkdir(exist_ok=True)
    load = machine.Load()
    said: list[str] = []
    groups = [range(sandboxes)] if together else [[number] for number in range(sandboxes)]
    for numbers in groups:
        said += _sandboxes(name, numbers, logs)
    busy = load.since_start()["busy"]
    rows, emulation = [], ""
    for line in said:
        content = json.loads(line)
        if isinstance(content, dict):
            emulation = content["emulation"]
        else:
            rows.append({**Observation(*content)._asdict(), "busy_before": busy_before, "busy": busy})
    console.print(
        f"{name}: {len(rows)} observations in {time.monotonic() - begun:.0f} s; {busy_before:.0%} busy before"
    )
    return rows, emulation


def _sandboxes(name: str, numbers: Sequence[int], logs: Path) -> list[str]:
    """What the bar prints in as many sandboxes at the same time."""
    deadline = time.monotonic() + PATIENCE
    running = []
    for number in numbers:
        log = logs / f"{name}-{number}"
        command = [sys.executable, "-m", "experiments.testbed_bars", name, str(number)]
        with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
            running.append((log, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)))
    said = []
    try:
        for log, process in running:
            code = process.wait(max(0.1, deadline - time.monotonic()))
            if code:
                last = log.with_suffix(".err").read_text().strip().splitlines()[-1:] or ["it said nothing"]
                raise TestbedError(f"it ended with {code}: {last[0]}")
            said += log.with_suffix(".out").read_text().splitlines()
    except subprocess.TimeoutExpired:
        raise TestbedError(f"it has not ended after {PATIENCE:g} s") from None
    finally:
        for _, process in running:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return said


def _judged(run: Run, page: bool) -> dict[str, Any]:
    """Have the analysis make figures and table. TestbedError when that fails."""
    command = [sys.executable, "-m", "analysis", "testbed", str(run.directory)]
    command += ["--page", str(PAGE)] if page else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise TestbedError(f"the analysis failed: {(done.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    figures: dict[str, Any] = json.loads(run.path("summary.json").read_text())
    return figures


if __name__ == "__main__":
    sys.exit(main())
