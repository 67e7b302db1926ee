"""`python -m analysis judge RUN_DIR …`: the verdict and the metrics of trials of experiments.

`report DIR …`: the reports of plans whose trials have been judged; of a run of the handover experiment: judge it first.
`tables PLAN_DIR … --page FILE`: tables of plans, as Markdown. `compare A B`: what differs between two sets of results.
`bench DIR`: put a bench's figures together.
`round DIR`: judge a round of a soak; `soak DIR`: put its rounds together. `merge DIR`: all captures in one file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from analysis import bench, changes, judgement, merge, plan_report, plans, report, soak, tables, testbed
from analysis.capture import CaptureError
from analysis.plan_pictures import View
from analysis.plans import Plan
from analysis.run import RunError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. A run that failed is no error of the report's."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Results of experiments.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("judge", help="judge trials of experiments, and write down what is measured of them")
    command.add_argument("run_dir", type=Path, nargs="+", help="e.g. results/overload/latest/runs/latest")
    command.set_defaults(run=_judge)
    command = commands.add_parser("report", help="write HTML reports: of plans, or of single runs, which it judges")
    command.add_argument("directory", type=Path, nargs="+", help="e.g. results/experiment/latest")
    command.set_defaults(run=_report)
    command = commands.add_parser("tables", help="the tables of plans as Markdown")
    command.add_argument("directory", type=Path, nargs="+", help="e.g. results/all/latest")
    command.add_argument("--page", type=Path, metavar="FILE", help="put them there, between its markers")
    command.set_defaults(run=_tables)
    command = commands.add_parser("compare", help="what differs between two sets of results beyond noise")
    command.add_argument("first", type=Path, help="e.g. results/experiment/20261123T181136-a894")
    command.add_argument("second", type=Path, help="such as those of another revision of the code")
    command.set_defaults(run=lambda options: print(changes.report(options.first, options.second)))
    command = commands.add_parser("bench", help="put the figures of a bench together, whose parts have been judged")
    command.add_argument("directory", type=Path, help="e.g. results/bench/latest")
    command.set_defaults(run=_bench)
    command = commands.add_parser("round", help="judge a round of a soak")
    command.add_argument("directory", type=Path, help="e.g. results/soak/latest/round/latest")
    command.set_defaults(run=lambda options: _say(soak.judge_round(options.directory)))
    command = commands.add_parser("soak", help="put the rounds of a soak together, which have been judged")
    command.add_argument("directory", type=Path, help="e.g. results/soak/latest")
    command.set_defaults(run=lambda options: _say(soak.summarise(options.directory, "round")))
    command = commands.add_parser("merge", help="all captures of a run in one file for Wireshark, by time")
    command.add_argument("directory", type=Path, help="e.g. results/handover/latest")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="(DIRECTORY/all.pcapng)")
    command.set_defaults(run=_merge)
    command = commands.add_parser("testbed", help="make figures and table of the testbed's own benchmark")
    command.add_argument("directory", type=Path, help="e.g. results/bench-testbed/latest")
    command.add_argument("--page", type=Path, help="put the table there, between its markers")
    command.set_defaults(run=lambda options: _say(testbed.summarise(options.directory, options.page)))
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (RunError, CaptureError, OSError) as error:
        print(f"analysis: {error}", file=sys.stderr)
        return 2
    return 0


def _judge(options: argparse.Namespace) -> None:
    for run_dir, found in judgement.judge_all(options.run_dir):
        print(f"{run_dir}: {found.verdict}: {found.reason}", flush=True)


def _report(options: argparse.Namespace) -> None:
    for directory in options.directory:
        if (directory / plans.PLAN).exists():
            print(plan_report.write(directory))
            continue
        written = report.write(directory)
        print(f"{written.figures['verdict']}: {written.figures['reason']}")
        print(written.path)


def _tables(options: argparse.Namespace) -> None:
    made = "\n".join(tables.document(View(Plan.load(directory))) for directory in options.directory)
    if options.page is None:
        print(made)
    else:
        tables.insert(options.page, made)


def _bench(options: argparse.Namespace) -> None:
    _say(bench.summarise(options.directory))


def _merge(options: argparse.Namespace) -> None:
    target = options.output or options.directory / "all.pcapng"
    captures = merge.of_directory(options.directory)
    if not captures:
        raise CaptureError(f"{options.directory} has no captures (*.pcap)")
    count, cut = merge.merge(captures, target)
    left_out = f"; the last one of {', '.join(cut)} was cut short, and left out" if cut else ""
    print(f"{count} packets of {', '.join(captures)}: {target}{left_out}")


def _say(figures: dict[str, Any]) -> None:
    print(f"{figures['verdict']}: {figures['reason']}")


if __name__ == "__main__":
    sys.exit(main())
