"""The experiments that are one run in one sandbox: `handover | bench | soak | chain | soak-postgres |
bench-postgres`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments import postgres_bench, postgres_soak
from experiments.bench import bench
from experiments.handover import Handover, perform
from experiments.judging import judge, judge_bench, judge_soak, summary
from experiments.postgres_bench import DatabaseBench
from experiments.postgres_soak import DatabaseSoak
from experiments.soak import Soak, chain, soak
from testbed import doctor, sandbox
from testbed.fidelity import Limits, Monitor
from testbed.results import Run
from topologies.two_servers import running


def add_commands(commands: Any) -> None:
    """To the parser's."""
    handover = commands.add_parser("handover", help="a download moves between two servers, again and again")
    handover.add_argument("--migrations", type=_positive, default=200)
    handover.add_argument("--size", type=_positive, default=500_000_000, metavar="BYTES")
    handover.add_argument("--bw", type=float, default=500.0, metavar="MBIT", help="of each link; 0: unshaped")
    handover.set_defaults(run=perform_one, act=_handover)
    bench = commands.add_parser("bench", help="what migration costs, each figure beside its reference")
    bench.add_argument("--repetitions", type=_positive, default=12, help="of the goodput pairs")
    bench.add_argument("--moves", type=_positive, default=200, help="per latency figure")
    bench.set_defaults(run=perform_one, act=_bench)
    for name, act, moves, loss, what in (
        ("soak", soak, 5000, 2.0, "many connections move between three servers while packets are lost"),
        ("chain", chain, 1000, 0.0, "one connection of each kind moves on and on, each time at once"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("--migrations", type=_positive, default=moves)
        command.add_argument("--loss", type=float, default=loss, metavar="PERCENT", help="of all packets")
        command.add_argument("--bw", type=float, default=200.0, metavar="MBIT", help="of each link")
        command.add_argument("--seed", type=int, default=1)
        command.set_defaults(run=perform_one, act=_soak, name=name, rounds=act)
    command = commands.add_parser("soak-postgres", help="sessions of PostgreSQL move while front-ends are killed")
    command.add_argument("--migrations", type=_positive, default=2000)
    command.add_argument("--kills", type=int, default=20, help="of front-ends")
    command.add_argument("--sessions", type=_positive, default=8)
    command.add_argument("--seed", type=int, default=1)
    command.set_defaults(run=perform_one, act=_soak_postgres)
    command = commands.add_parser("bench-postgres", help="what M-TCP adds to a transaction that does not move")
    command.add_argument(
        "--pairs", type=_positive, default=DatabaseBench.pairs, help="of rounds of pgbench, with M-TCP and without"
    )
    command.add_argument("--transactions", type=_positive, default=DatabaseBench.transactions, help="of each round")
    command.add_argument("--rtt", type=float, default=0.0, metavar="MS", help="between client and servers (0)")
    command.set_defaults(run=perform_one, act=_bench_postgres)


def perform_one(options: argparse.Namespace, console: Console) -> int:
    """Run one of these, in a sandbox; exit status 0 when the verdict is `succeeded`, 1 when it is not."""
    sandbox.enter()
    doctor.require("mnexec", "ip", "tc", "ifconfig", "tcpdump", "curl")
    if options.limits is not None:
        Monitor.limits = Limits.read(options.limits)
    return int(options.act(options, console))


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


def _soak(options: argparse.Namespace, console: Console) -> int:
    setting = Soak(options.migrations, options.loss, options.bw, options.seed)
    with Run(options.name, scenario=options.name, mechanism="mtcp", factors=asdict(setting)) as run:
        options.rounds(run, setting, console)
        judge_soak(run)
    _show(run, "summary.json", console)
    return 0 if run.metadata["verdict"] == "succeeded" else 1


def _soak_postgres(options: argparse.Namespace, console: Console) -> int:
    setting = DatabaseSoak(options.migrations, options.kills, options.sessions, seed=options.seed)
    with Run("soak-postgres", scenario="soak-postgres", mechanism="mtcp", factors=asdict(setting)) as run:
        postgres_soak.soak(run, setting, console)
    return _show(run, "summary.json", console)


def _bench_postgres(options: argparse.Namespace, console: Console) -> int:
    setting = DatabaseBench(options.pairs, options.transactions, options.rtt)
    with Run("bench-postgres", scenario="bench-postgres", mechanism="mtcp", factors=asdict(setting)) as run:
        postgres_bench.bench(run, setting, console)
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
        elif name in (
            "gap_ms",
            "handshake_ms",
            "kept_reasons",
            "outcomes",
            "latency",
            "causes",
            "worst",
            "lost_by_kind",
            "migrations_by_workload",
        ):
            table.add_row(name, "\n".join(f"{key}: {_short(each)}" for key, each in value.items()), "", "")
        elif name == "phases_ms_median":
            for phase, estimate in value.items():
                table.add_row(*_estimate(f"  {phase} [ms]", estimate))
    console.print(table)
    console.print(run.path(result), soft_wrap=True)
    return 0 if figures["verdict"] == "succeeded" else 1


def _estimate(name: str, estimate: dict[str, Any]) -> tuple[str, str, str, str]:
    low, high = map(_text, estimate["ci95"])
    return name, _text(estimate["value"]), f"{low} … {high}", str(estimate["n"])


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items())
    return "\n  ".join(value) if isinstance(value, list) else _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if type(value) is int else str(value)
