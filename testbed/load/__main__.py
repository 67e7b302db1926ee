"""Load, on a host of the testbed: each command prints `started`, and at its end what it really did, as JSON.

python -m testbed.load burn --processes 2 --share 0.5 --seconds 10 [--steps 2 --every 0.5]
python -m testbed.load open 10.0.0.1:80 --path /1M --rate 50 --seconds 10 --rows requests.csv
python -m testbed.load closed 10.0.0.1:80 --path /1M --clients 20 --think 0.5 --seconds 10
python -m testbed.load hold 10.0.0.1:80 --connections 500 --seconds 10
python -m testbed.load memory --mib 200 --seconds 10

--wait: be ready, and begin at SIGUSR1.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed import generators


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="testbed.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        each = commands.add_parser(name, help=what, description=what)
        each.add_argument("--seconds", type=float, default=10.0)
        return each

    burn = command("burn", "use CPU")
    waits: dict[str, Any] = {"action": "store_true", "help": "to begin at SIGUSR1"}
    burn.add_argument("--steps", type=int, default=1, help="in which the processes begin (1)")
    burn.add_argument("--every", type=float, default=1.0, help="seconds from one step to the next (1)")
    burn.add_argument("--wait", **waits)
    burn.add_argument("--processes", type=int, default=1)
    burn.add_argument("--share", type=float, default=1.0, help="of a core, for each process (1)")
    for name, what in (("open", "requests at random instants"), ("closed", "clients that wait for their answers")):
        each = command(name, what)
        each.add_argument("target", metavar="ADDRESS:PORT")
        each.add_argument("--wait", **waits)
        each.add_argument("--path", default="/")
        each.add_argument("--timeout", type=float, default=10.0, help="seconds that a client waits (10)")
        each.add_argument("--seed", type=int, default=1)
        each.add_argument("--rows", type=Path, metavar="FILE", help="every request, to this .csv or .parquet")
        if name == "open":
            each.add_argument("--rate", type=float, default=10.0, help="requests a second (10)")
        else:
            each.add_argument("--clients", type=int, default=10)
            each.add_argument("--think", type=float, default=0.0, help="mean seconds from answer to request")
            each.add_argument("--keep", action="store_true", help="one connection for many requests")
    hold = command("hold", "connections that want nothing: for accept queues")
    hold.add_argument("target", metavar="ADDRESS:PORT")
    hold.add_argument("--connections", type=int, default=100)
    hold.add_argument("--rate", type=float, default=1000.0, help="opened a second (1000)")
    memory = command("memory", "hold and use memory")
    memory.add_argument("--mib", type=int, default=100)
    return parser


def _work(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks for; its report."""
    if options.command == "burn":
        from testbed.load.burners import burn

        return burn(
            options.processes,
            options.share,
            options.seconds,
            steps=options.steps,
            every=options.every,
            wait=options.wait,
        )
    if options.command == "memory":
        from testbed.load.memory import hog

        return hog(options.mib, options.seconds)
    target = generators.target(options.target)
    if options.command == "hold":
        from testbed.load.holding import hold

        return hold(target, connections=options.connections, rate=options.rate, seconds=options.seconds)
    from testbed.load import requests

    service = requests.Service(*target, options.path, options.timeout)
    common = {"seconds": options.seconds, "seed": options.seed, "wait": options.wait}
    if options.command == "open":
        rows, report = requests.open_loop(service, rate=options.rate, **common)
    else:
        rows, report = requests.closed_loop(
            service, clients=options.clients, think=options.think, keep=options.keep, **common
        )
    if options.rows is not None:
        _write(options.rows, rows)
    return report


def _write(path: Path, rows: list[Any]) -> None:
    """Tidy: one request a row."""
    import pandas as pd  # slow to import: after the work

    from testbed.load.requests import Request

    frame = pd.DataFrame([asdict(row) for row in rows], columns=[*Request.__dataclass_fields__])
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)


def main() -> int:
    options = _parser().parse_args()
    return generators.run("load", lambda: _work(options))


if __name__ == "__main__":
    sys.exit(main())
