"""Attacks, on a host of the testbed: each prints `started`, and at its end what it really did, as JSON.

    python -m testbed.attack syn 10.0.0.1:80 --rate 50000 --seconds 10 [--sources 10.0.0.128/25] [--payload 1000]
    python -m testbed.attack moves 10.0.0.2:7001 --old 10.0.0.1 --rate 2000 --seconds 10 [--sources own]
    python -m testbed.attack slow 10.0.0.1:80 --connections 500 --every 5 --seconds 60
    python -m testbed.attack requests 10.0.0.1:80 --path /big --rate 200 --seconds 10

`syn` and `moves` forge their sources: addresses of the network --sources, which must be the testbed's. Those of hosts
that exist answer with RST. The others take real connections.

--wait: be ready, and begin at SIGUSR1.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from testbed import generators

SOURCES = "10.0.0.128/25"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="testbed.attack", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, what: str, rate: float) -> argparse.ArgumentParser:
        each = commands.add_parser(name, help=what, description=what)
        each.add_argument("target", metavar="ADDRESS:PORT")
        each.add_argument("--rate", type=float, default=rate, help=f"a second ({rate:g})")
        each.add_argument("--seconds", type=float, default=10.0)
        return each

    waits: dict[str, Any] = {"action": "store_true", "help": "to begin at SIGUSR1"}
    floods = [
        command("syn", "connection attempts that nobody completes", 10_000),
        command("moves", "forged moves of connections", 2000),
    ]
    floods[0].add_argument("--payload", type=int, default=0, metavar="BYTES", help="in each SYN (0)")
    for each in floods:
        each.add_argument("--count", type=int, help="segments; the end, if --seconds are not over before")
        each.add_argument("--wait", **waits)
        each.add_argument("--sources", default=SOURCES, metavar="NETWORK", help=f"or `own` ({SOURCES})")
        each.add_argument("--seed", type=int, default=1)
        if each.prog.endswith("moves"):
            each.add_argument("--old", required=True, metavar="ADDRESS", help="of the server that is said to have them")
    slow = command("slow", "requests that never end", 100)
    slow.add_argument("--connections", type=int, default=500)
    slow.add_argument("--every", type=float, default=5.0, help="seconds between the lines of a request (5)")
    heavy = command("requests", "many requests that cost much", 100)
    heavy.add_argument("--seed", type=int, default=1)
    heavy.add_argument("--wait", **waits)
    for each in (slow, heavy):
        each.add_argument("--path", default="/")
    return parser


def _work(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks for; its report."""
    ip, port = target = generators.target(options.target)
    generators.bounded(rate=options.rate, seconds=options.seconds)
    if options.command == "slow":
        from testbed.load.holding import hold

        bounds = {"rate": options.rate, "seconds": options.seconds}
        return hold(target, connections=options.connections, slow=options.every, path=options.path, **bounds)
    if options.command == "requests":
        from testbed.load.requests import Service, open_loop

        service = Service(ip, port, options.path)
        common = {"seconds": options.seconds, "seed": options.seed, "wait": options.wait}
        return open_loop(service, rate=options.rate, patient=False, **common)[1]
    if ":" in ip:
        raise ValueError("floods are of IPv4 only")
    from mtcp.address import Endpoint
    from testbed.attack import frames, moves, sender, syn

    sources = None if options.sources == "own" else frames.forged(options.sources)
    way = sender.way_to(ip)
    if options.command == "syn":
        batch = syn.frames(way, ip, port, sources, options.seed, payload=options.payload)
    else:
        batch = moves.frames(way, Endpoint(ip, port), Endpoint(options.old, port), sources, options.seed)
    bounds = {"rate": options.rate, "seconds": options.seconds, "count": options.count, "wait": options.wait}
    return sender.flood(way.interface, batch, **bounds)


def main() -> int:
    options = _parser().parse_args()
    return generators.run("attack", lambda: _work(options))


if __name__ == "__main__":
    sys.exit(main())
