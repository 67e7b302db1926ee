"""What one asks for on the command line of `run`, as requests for a plan; nonsense is said before anything begins."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import mechanisms, scenarios
from experiments.plan import Request
from experiments.scenario import Value
from mtcp import policy
from mtcp.errors import MtcpError
from testbed.fidelity import Limits


class AskingError(Exception):
    """It makes no sense; the message, one line, says why."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `run`."""
    several = "; several: each with each"
    parser.add_argument("scenarios", nargs="+", metavar="NAME", help="of a scenario (see list), or all")
    parser.add_argument("--reps", type=int, default=3, metavar="N", help="repetitions of each trial (3)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of order, faults and all else random (1)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FACTOR=VALUE[,VALUE]", help=f"values of a factor{several}"
    )
    parser.add_argument(
        "--mechanism", action="append", default=[], metavar="NAME[,NAME]", help="to compare (as the scenario says)"
    )
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="SPEC",
        help=f"as of mtcp agent (as the scenario says){several}",
    )
    parser.add_argument("--small", action="store_true", help="to be over soon: no sweeps, shorter times")
    parser.add_argument("--name", default="", metavar="EXPERIMENT", help="results are in results/EXPERIMENT")
    parser.add_argument("--retries", type=int, default=2, metavar="N", help="of a trial whose run is invalid (2)")
    limits = "of what the machine may do to a run, TOML (testbed/fidelity.py)"
    add_workers(parser)
    parser.add_argument("--limits", type=Path, default=argparse.SUPPRESS, metavar="FILE", help=limits)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Of `run` and `resume`: where trials are performed."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="of dask, whose workers perform the trials")
    what = "perform N trials at the same time on this machine, which then disturb each other: to try sweeps"
    where.add_argument("--workers", type=int, metavar="N", help=what)


def check_workers(options: argparse.Namespace) -> None:
    """AskingError for a scheduler or a number of workers that cannot be."""
    if options.workers is not None and options.workers < 1:
        raise AskingError(f"--workers {options.workers}: not a number from 1 on")
    if options.scheduler is not None and not re.fullmatch(r"(tcp|tls)://.+:\d+", options.scheduler):
        raise AskingError(f"--scheduler {options.scheduler}: not tcp://HOST:PORT")


def requests(options: argparse.Namespace) -> list[Request]:
    """What the options of `run` ask for; AskingError, or TestbedError of --limits."""
    check_workers(options)
    if options.limits is not None:
        Limits.read(options.limits)
    for name, least in (("reps", 1), ("retries", 0)):
        if getattr(options, name) < least:
            raise AskingError(f"--{name} {getattr(options, name)}: not a number from {least} on")
    if options.name and (Path(options.name).name != options.name or options.name[0] == "." or options.name == "latest"):
        raise AskingError(f"--name {options.name}: not the name of a directory")
    names = _scenarios(options.scenarios)
    settings = _settings(options.set, names)
    chosen = [name for listed in options.mechanism for name in listed.split(",")]
    _known("mechanism", chosen, mechanisms.all_mechanisms())
    for text in options.policy:
        _check_policy(text)
    return [
        Request(name, settings[name], tuple(dict.fromkeys(chosen)), tuple(options.policy), options.small)
        for name in names
    ]


def experiment(options: argparse.Namespace, asked: Sequence[Request]) -> str:
    """What the experiment is called: as told, or as its scenario."""
    return str(options.name) or (asked[0].scenario if len(asked) == 1 else "experiment")


def _scenarios(names: Sequence[str]) -> list[str]:
    known = scenarios.all_scenarios()
    names = list(known) if list(names) == ["all"] else list(dict.fromkeys(names))
    _known("scenario", names, known)
    return names


def _settings(words: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, tuple[Value, ...]]]:
    """The values of factors, by scenario: a factor is set in all that have it, and one at least must."""
    settings: dict[str, dict[str, tuple[Value, ...]]] = {name: {} for name in names}
    for word in words:
        factor, equals, listed = word.partition("=")
        having = [name for name in names if factor in scenarios.named(name).factors]
        if not equals or not listed:
            raise AskingError(f"--set {word}: not FACTOR=VALUE")
        if not having:
            known = sorted({each for name in names for each in scenarios.named(name).factors})
            raise AskingError(f"--set {word}: no factor {factor!r}; there are {', '.join(known)}")
        for name in having:
            try:
                values = [scenarios.named(name).factors[factor].parse(text) for text in listed.split(",")]
            except ValueError as error:
                raise AskingError(f"--set {word}: {error}") from None
            settings[name][factor] = tuple(dict.fromkeys(values))
    return settings


def _known(what: str, names: Sequence[str], known: Mapping[str, object]) -> None:
    for name in names:
        if name not in known:
            raise AskingError(f"no {what} {name!r}; there are {', '.join(known)}")


def _check_policy(text: str) -> None:
    make = policy.make_server if text.partition(":")[0] in policy.SERVER_NAMES else policy.make
    try:
        # A trial tells it the time, which nobody knows yet.
        make("oracle:at=0" if text == "oracle" else text)
    except MtcpError as error:
        raise AskingError(f"--policy {text}: {error}") from None
