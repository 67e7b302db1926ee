"""`python -m experiments list | run NAME… | resume [DIR] | show [DIR]`, and the experiments that are one run."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from experiments import asking, judging, runner, showing, single
from experiments.attempt import Site
from experiments.ledger import Ledger, newest, passed
from experiments.progress import Show
from testbed import doctor
from testbed.errors import TestbedError

STATUS = (
    "Exit status: 0 when every trial succeeded or is unsupported, or failed and is not M-TCP's (that plain TCP fails "
    "is a result); 1 when not; 2 for bad usage; 130 when interrupted."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: see STATUS; of the experiments that are one run 0, 1 or 2."""
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        return int(options.run(options, console))
    except asking.AskingError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 2
    except TestbedError as error:
        print(f"experiments: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", description="M-TCP experiments.")
    limits = "of what the machine may do to a run, before it is invalid: a TOML file, its table [fidelity]"
    parser.add_argument("--limits", type=Path, metavar="FILE", help=f"{limits} (testbed/fidelity.py)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("list", help="scenarios with their factors, mechanisms, policies")
    command.set_defaults(run=_list)
    command = commands.add_parser("run", help="plan trials of scenarios, perform them, report", epilog=STATUS)
    asking.add_options(command)
    command.set_defaults(run=_run)
    for name, act, what in (
        ("resume", _resume, "go on with a plan that was interrupted"),
        ("show", _show, "what became of a plan's trials, and its figures"),
    ):
        command = commands.add_parser(name, help=what, epilog=STATUS if act is _resume else None)
        command.add_argument("directory", type=Path, nargs="?", metavar="DIR", help="of the plan (the newest)")
        command.set_defaults(run=act)
        if act is _resume:
            asking.add_workers(command)
    single.add_commands(commands)
    return parser


def _list(_options: argparse.Namespace, console: Console) -> int:
    showing.show_all(console)
    return 0


def _run(options: argparse.Namespace, console: Console) -> int:
    try:
        asked = asking.requests(options)
    except TestbedError as error:
        raise asking.AskingError(str(error)) from None
    if options.scheduler is None:
        doctor.require_all()
    name = asking.experiment(options, asked)
    ledger = Ledger.create(name, asked, options.reps, options.seed, options.retries, options.limits)
    return _perform(ledger, options, console)


def _resume(options: argparse.Namespace, console: Console) -> int:
    asking.check_workers(options)
    ledger = Ledger.load(options.directory or newest())
    if options.scheduler is None:
        doctor.require_all()
    return _perform(ledger, options, console)


def _show(options: argparse.Namespace, console: Console) -> int:
    showing.show_plan(Ledger.load(options.directory or newest()), console)
    return 0


def _perform(ledger: Ledger, options: argparse.Namespace, console: Console) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with ledger.held() as lock, _performing(ledger, lock, options) as perform, Show(console) as show:
            runner.execute(ledger, perform, judging.judge_trials, show)
    except KeyboardInterrupt:
        where = ledger.directory
        console.print(f"Interrupted. To go on: python -m experiments resume {where}", soft_wrap=True, highlight=False)
        return 130
    try:
        judging.report_plan(ledger.directory)
    finally:
        showing.show_plan(ledger, console)
    return 0 if passed(ledger.entries) else 1


@contextlib.contextmanager
def _performing(ledger: Ledger, lock: int, options: argparse.Namespace) -> Iterator[runner.Perform]:
    """What performs trials: here one by one, or by dask, which nothing is imported of otherwise."""
    if options.scheduler is None and options.workers is None:
        yield runner.one_by_one(Site(ledger.directory, ledger.limits, inherited=(lock,)))
    else:
        from experiments import sweep

        with sweep.over(options.scheduler, options.workers or 0, ledger.directory) as perform:
            yield perform


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
