"""How fast the analysis is, and how much memory it needs: `python -m analysis.benchmark` (make bench-analysis).

A synthetic run whose captures have a gigabyte is judged, and the report of a plan as large as that of `make experiment`
is made. Each repetition is a process of its own, on one core; the files are in the page cache: no disk is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from analysis import plan_report, statistics, tables, verdict
from analysis.synthetic_bulk import write_bulk
from analysis.synthetic_plans import write_plan
from analysis.tables import Table

BEGIN, END = "<!-- speed: made by make bench-analysis -->", "<!-- speed: end -->"
SIZE = 1e9
"""Bytes of captures."""
EXPERIMENT: dict[str, dict[str, list[object]]] = {name: {"rtt": [20.0]} for name in ("overload", "congestion", "dos")}
"""What `make experiment` tries: each by five mechanisms, three times."""
RATE, MEMORY, REPORT = "captures [MB/s]", "memory, peak [MB]", "report of make experiment [s]"
BARS = {RATE: (50.0, None), MEMORY: (None, 2000.0), REPORT: (None, 30.0)}
"""(least, most)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when every bar is met, 1 when one is not."""
    parser = argparse.ArgumentParser(prog="python -m analysis.benchmark", description=__doc__)
    parser.add_argument("--size", type=float, default=SIZE, metavar="BYTES", help="of captures (%(default)g)")
    parser.add_argument("--reps", type=int, default=5, metavar="N", help="repetitions (%(default)s)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table there, between its markers")
    parser.add_argument("--once", nargs=2, metavar=("WHAT", "DIRECTORY"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.once:
        print(json.dumps(once(*options.once)))
        return 0
    made, met = table(measure(options.size, options.reps))
    print(made)
    if options.page is not None:
        tables.insert(options.page, made, BEGIN, END)
    return 0 if met else 1


def measure(size: float, repetitions: int) -> dict[str, list[float]]:
    """The samples of each figure: those of BARS, and packets a second."""
    found: dict[str, list[float]] = {RATE: [], "packets [1/s]": [], MEMORY: [], REPORT: []}
    Path("results").mkdir(exist_ok=True)
    with TemporaryDirectory(dir="results", prefix="bench-analysis-") as place:
        run, plan = Path(place, "run"), Path(place, "experiment", "plan")
        size, packets = write_bulk(run, size)
        write_plan(plan, EXPERIMENT)
        for _ in range(repetitions):
            seconds, memory = _apart("judge", run)
            found[RATE].append(size / 1e6 / seconds)
            found["packets [1/s]"].append(packets / seconds)
            found[MEMORY].append(memory)
            found[REPORT].append(_apart("report", plan)[0])
    return found


def once(what: str, directory: str) -> tuple[float, float]:
    """(seconds, peak of the process's memory in MB) of judging the run, or of the plan's report, on one core."""
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    begun = time.monotonic()
    if what == "judge":
        assert verdict.judge(directory).verdict == "succeeded"
    else:
        plan_report.write(directory)
    return time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def table(found: dict[str, list[float]]) -> tuple[str, bool]:
    """(as Markdown, whether every bar is met)."""
    rows, met = [], True
    for what, samples in found.items():
        estimate = statistics.median(samples)
        assert estimate.value is not None
        least, most = BARS.get(what, (None, None))
        ok = (least is None or estimate.value >= least) and (most is None or estimate.value <= most)
        met &= ok
        bar = f"at least {least:g}" if least is not None else f"at most {most:g}" if most is not None else ""
        interval = "" if estimate.low is None else f"{_short(estimate.low)} … {_short(estimate.high or 0)}"
        rows.append([what, _short(estimate.value), interval, bar + ("" if ok else ": missed")])
    columns = ["what", "median", "95 % interval", "bar"]
    where = f"{len(found[RATE])} repetitions, one core, Python {platform.python_version()}, {platform.machine()}."
    return f"{tables.markdown(Table('', columns, rows))}\n\n{where}", met


def _apart(what: str, directory: Path) -> tuple[float, float]:
    """`once` in a process of its own."""
    command = [sys.executable, "-m", "analysis.benchmark", "--once", what, str(directory)]
    seconds, memory = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return seconds, memory


def _short(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f") if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
