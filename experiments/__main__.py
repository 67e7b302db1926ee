"""`python -m experiments handover | bench`: run an experiment in a sandbox and report on it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.bench import bench
from experiments.handover import Handover, perform
from experiments.judging import judge, judge_bench, summary
from testbed import doctor, sandbox
from testbed.errors import TestbedError
from testbed.results import Run
from topologies.two_servers import running


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when the verdict is `succeeded`, 1 when it is not, 2 for bad usage."""
    options = _parser().parse_args(arguments)
    sandbox.enter()
    doctor.require("mnexec", "ip", "tc", "ifconfig", "tcpdump", "curl")
    try:
        return int(options.run(options, Console()))
    except TestbedError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", description="M-TCP experiments.")
    commands = parser.add_subparsers(required=True, metavar="EXPERIMENT")
    handover = commands.add_parser("handover", help="a download moves between two servers, again and again")
    handover.add_argument("--migrations", type=_positive, default=200)
    handover.add_argument("--size", type=_positive, default=500_000_000, metavar="BYTES")
    handover.add_argument("--bw", type=float, default=500.0, metavar="MBIT", help="of each link; 0: unshaped")
    handover.set_defaults(run=_handover)
    bench = commands.add_parser("bench", help="what migration costs, each figure beside its reference")
    bench.add_argument("--repetitions", type=_positive, default=12, help="of the goodput pairs")
    bench.add_argument("--moves", type=_positive, default=200, help="per latency figure")
    bench.set_defaults(run=_bench)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _handover(options: argparse.Namespace, console: Console) -> int:
    setting = Handover(options.migrations, options.size, options.bw or None)
    with Run("handover", scenario="handover", mechanism="mtcp", factors=asdict(setting)) as run:
        with running(big=setting.size, logs=run.path("logs")) as network:
            perform(run, network, setting, console)
        judge(run)
    return _show(run, "report.html", console)


def _bench(options: argparse.Namespace, console: Console) -> int:
    factors = {"repetitions": options.repetitions, "moves": options.moves}
    with Run("bench", scenario="bench", mechanism="mtcp", factors=factors) as run:
        parts = bench(run, options.repetitions, options.moves, console)
        judge_bench(run, *parts)
    return _show(run, "summary.json", console)


def _show(run: Run, result: str, console: Console) -> int:
    """Print the figures; the exit status that they mean."""
    figures = summary(run)
    table = Table("figure", "value", "95 % CI", "n")
    for name, value in figures.items():
        if not isinstance(value, dict):
            table.add_row(name, _text(value), "", "")
        elif "ci95" in value:
            table.add_row(*_estimate(name, value))
        elif name == "phases_ms_median":
            for phase, estimate in value.items():
                table.add_row(*_estimate(f"  {phase} [ms]", estimate))
    console.print(table)
    console.print(run.path(result), soft_wrap=True)
    return 0 if figures["verdict"] == "succeeded" else 1


def _estimate(name: str, estimate: dict[str, Any]) -> tuple[str, str, str, str]:
    low, high = map(_text, estimate["ci95"])
    return name, _text(estimate["value"]), f"{low} … {high}", str(estimate["n"])


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if type(value) is int else str(value)


if __name__ == "__main__":
    sys.exit(main())
