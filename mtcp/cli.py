"""`mtcp agent | pool init | ls | migrate | policy | watch | status`, and the like."""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mtcp.address import Endpoint
from mtcp.agent import local
from mtcp.errors import MtcpError
from mtcp.policy import DEFAULT, NAMES, SERVER_NAMES, Parameters, Policy, Spec, load, make, make_server
from mtcp.watching import watch
from mtcp.wire.options import HintReason


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors are one line on stderr and exit status 1 (2 for bad usage)."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except MtcpError as error:
        return _fail(str(error))
    except PermissionError as error:
        return _fail(f"{error.strerror or error}: run as root")
    except OSError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130


def _fail(reason: str) -> int:
    print(f"mtcp: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mtcp", description="Migratory TCP: move the server end of live connections.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    agent = commands.add_parser("agent", help="run this host's agent (as root)")
    agent.add_argument("--name", required=True, help="this host's name; a server's is one of the pool's")
    agent.add_argument("--pool", type=Path, help="the pool file, on servers")
    agent.add_argument("--cgroup", type=Path, help="cgroup v2 directory of this host's processes (default: the root)")
    agent.add_argument("--interface", action="append", default=[], help="interface to attach to; may be repeated")
    agent.add_argument("--pin", type=Path, help="bpffs directory in which the mapping outlives the agent")
    agent.add_argument("--events", type=Path, help="write events to this file, as JSON lines")
    agent.add_argument(
        "--policy",
        default=DEFAULT,
        metavar="NAME[:PARAMETER=VALUE,...]",
        help=f"when clients' connections move: {', '.join(NAMES)} ({DEFAULT})",
    )
    what = f"when clients are asked to leave this server: {', '.join(SERVER_NAMES)} (never); may be repeated"
    agent.add_argument("--server-policy", action="append", default=[], metavar="NAME[:PARAMETER=VALUE,...]", help=what)
    _policy_file(agent)
    agent.set_defaults(run=_agent)

    pool = commands.add_parser("pool", help="prepare a pool of servers").add_subparsers(
        required=True, metavar="COMMAND"
    )
    init = pool.add_parser(
        "init",
        help="make the pool's own CA, and a key and certificate for each server",
        description="Make the pool's own CA, and a key and certificate for each server. What exists is kept.",
    )
    init.add_argument("file", type=Path, metavar="POOL.toml", help="the pool file")
    init.add_argument("--directory", type=Path, metavar="DIR", help="where (default: where the pool file says)")
    init.add_argument("--renew", action="store_true", help="new keys and certificates for all servers, of the same CA")
    init.set_defaults(run=_pool_init)

    ls = commands.add_parser("ls", help="list this host's migratable connections")
    ls.add_argument("--json", action="store_true")
    ls.set_defaults(run=_ls)

    migrate = commands.add_parser("migrate", help="move a connection of this host to another server")
    migrate.add_argument("connection", nargs="?", help="its local port or address:port; needless when there is one")
    migrate.add_argument("--to", required=True, metavar="SERVER", help="the new server's name or address")
    migrate.add_argument("--json", action="store_true")
    migrate.set_defaults(run=_migrate)

    hint = commands.add_parser("hint", help="ask the client of one connection of this server to move it")
    hint.add_argument("connection", help="the client's address:port, as `mtcp ls` shows it")
    hint.add_argument("--reason", choices=[r.name.lower() for r in HintReason], default="overload")
    hint.add_argument("--to", metavar="SERVER", help="the server of the pool that it should prefer")
    hint.set_defaults(run=_hint)

    drain = commands.add_parser("drain", help="move all connections of this server away; say which stayed and why")
    drain.add_argument("server", nargs="?", help="this server's name, to be sure to drain the right one")
    drain.add_argument("--to", metavar="SERVER", help="where to (default: the pool's other servers in turn)")
    drain.add_argument("--seconds", type=_seconds, default=10.0, help="how long to try (10)")
    drain.add_argument("--json", action="store_true")
    drain.set_defaults(run=_drain)

    policy = commands.add_parser("policy", help="show or change when this host's clients' connections move")
    policy.add_argument("policy", nargs="?", metavar="NAME[:PARAMETER=VALUE,...]", help=", ".join(NAMES))
    _policy_file(policy)
    policy.set_defaults(run=_policy)

    watching = commands.add_parser("watch", help="show what this host's agent does, as it does it, until Ctrl-C")
    watching.add_argument("--for", dest="seconds", type=_seconds, help="end after so long")
    watching.add_argument("--json", action="store_true")
    watching.set_defaults(run=_watch)

    sidecar = commands.add_parser(
        "sidecar",
        help="make an HTTP server of this host migratable, as it is",
        description="Take connections for an HTTP server of this host, which stays as it is: downloads go on from the "
        "same server elsewhere when they move. docs/sidecar.md",
    )
    sidecar.add_argument("--upstream", required=True, type=_upstream, metavar="http://ADDRESS:PORT", help="the server")
    sidecar.add_argument("--port", type=int, default=80, help="that clients connect to (80)")
    sidecar.add_argument("--address", default="", help="that clients connect to (all of this host's)")
    sidecar.add_argument(
        "--idle", type=_seconds, default=75.0, metavar="SECONDS", help="that clients may be silent (75)"
    )
    sidecar.add_argument("--plain", action="store_true", help="plain TCP, for comparison: connections do not move")
    sidecar.set_defaults(run=_sidecar)

    status = commands.add_parser("status", help="what this host's agent does")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)
    return parser


def _policy_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy-file", type=Path, metavar="FILE", help="policies' parameters: TOML, a table for each")


def _upstream(text: str) -> Endpoint:
    """Read http://127.0.0.1:8080 or http://localhost."""
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise argparse.ArgumentTypeError("give it as http://ADDRESS:PORT, without a path")
    ip = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    try:
        return Endpoint(str(ipaddress.ip_address(ip)), parts.port or 80)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError("between 0 and 3600")
    return seconds


def _agent(options: argparse.Namespace) -> int:
    from mtcp.agent.daemon import Settings, run  # the only command that needs the engine
    from mtcp.agent.sparing import Sparing
    from mtcp.linux.host import cgroup2_root, interfaces
    from mtcp.pool import Pool

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Sparing())
    pool = Pool.load(options.pool) if options.pool else None
    if pool is not None:
        pool.named(options.name)
    settings = Settings(
        name=options.name,
        cgroup=options.cgroup or cgroup2_root(),
        interfaces=options.interface or interfaces(),
        pool=pool,
        pin=options.pin,
        events=options.events,
        policy=_chosen(options),
        server_policies=[make_server(each, _file(options)) for each in options.server_policy],
    )
    run(settings)
    return 0


def _pool_init(options: argparse.Namespace) -> int:
    from mtcp import pki  # cryptography takes its time to load
    from mtcp.pool import Pool

    pool = Pool.load(options.file)
    directory = options.directory or pool.credentials
    for line in pki.initialise(directory, list(pool.servers), options.renew):
        print(line)
    print(f"\nA server needs the pool file and, from {directory}, ca.pem and its own .pem and .key: no other key.")
    print("ca.key is only for this command: it can be kept elsewhere.")
    if directory.resolve() != pool.credentials.resolve():
        print(f"Agents look into {pool.credentials}: put them there, or set `credentials` in {options.file}.")
    return 0


def _ls(options: argparse.Namespace) -> int:
    rows = local.request({"op": "ls"})["connections"]
    if options.json:
        print(json.dumps(rows))
    elif not rows:
        print("no migratable connections")
    else:
        _table(
            ["connection", "server", "now on", "state", "moves", "may go to"],
            [
                [
                    r["connection"],
                    r["server"],
                    r.get("current", "here"),
                    r["state"],
                    r["moves"],
                    " ".join(r.get("others", [])),
                ]
                for r in rows
            ],
        )
    return 0


def _migrate(options: argparse.Namespace) -> int:
    try:
        found = socket.getaddrinfo(options.to, None, type=socket.SOCK_STREAM)
    except OSError:
        raise MtcpError(f"unknown server {options.to!r}: no such name or address on this host") from None
    outcome = local.request({"op": "migrate", "connection": options.connection, "to": [end[0] for *_, end in found]})
    moved = outcome["outcome"] == "moved"
    if options.json:
        print(json.dumps(outcome))
    elif moved:
        ms = (outcome["committed_ns"] - outcome["decided_ns"]) / 1e6
        print(f"{outcome['connection']} moved from {outcome['from']} to {outcome['to']} in {ms:.2f} ms")
    if not moved:
        raise MtcpError(f"{outcome['connection']} stays on {outcome['from']}: {outcome['reason']}")
    return 0


def _hint(options: argparse.Namespace) -> int:
    request = {"op": "hint", "connection": options.connection, "reason": options.reason, "to": options.to}
    local.request(request)
    return 0


def _drain(options: argparse.Namespace) -> int:
    result = local.request({"op": "drain", "server": options.server, "to": options.to, "seconds": options.seconds})
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{result['moved']} moved, {result['stayed']} stayed")
        for row in result["why"]:
            print(f"  {row['connection']}: {row['why']}")
    return 1 if result["stayed"] else 0


def _policy(options: argparse.Namespace) -> int:
    request = {"op": "policy", "policy": None if options.policy is None else str(_chosen(options))}
    print(local.request(request)["policy"])
    return 0


def _chosen(options: argparse.Namespace) -> Spec[Policy]:
    """The policy of the command line, with the parameters of the file."""
    return make(options.policy, _file(options))


def _file(options: argparse.Namespace) -> dict[str, Parameters] | None:
    return load(options.policy_file) if options.policy_file else None


def _watch(options: argparse.Namespace) -> int:
    watch(options.seconds, options.json)
    return 0


def _sidecar(options: argparse.Namespace) -> int:
    import asyncio  # the only command that needs it, and HTTP

    from mtcp import aio
    from mtcp.sidecar.driver import Settings, serve_forever

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    async def run() -> None:
        with aio.listen((options.address, options.port), migratable=not options.plain, backlog=1024) as listener:
            print("listening", flush=True)
            await serve_forever(listener, Settings(options.upstream, options.idle))

    asyncio.run(run())
    return 0


def _status(options: argparse.Namespace) -> int:
    status = local.request({"op": "status"})
    if options.json:
        print(json.dumps(status))
        return 0
    for key, value in status.items():
        print(f"{key.replace('_', ' ')}: {_plain(value)}")
    return 0


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, bool):
        return "connected" if value else "not reached"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _table(head: list[str], rows: list[list[Any]]) -> None:
    cells = [head, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
