"""An HTTP client that does a workload for a given time and writes down what it got: the same for all mechanisms.

    python -m testbed.clients.http download --connect tcp --servers s1=10.0.0.1:80,s2=10.0.0.2:80 --path /big
        --start-at 1234.5 --end-at 1254.5 --out DIR

Instants are seconds of CLOCK_MONOTONIC. It prints `ready`, begins at --start-at, and drops its connection at --end-at;
SIGTERM ends it before that. What it had read by then is counted. The files in DIR: testbed.clients.record.

Without --policy it stays with the first server, and an error is the end. With --policy (as of `mtcp agent`) it leaves a
server when the policy says so, when the connection breaks or cannot be had, and asks the other one for the rest;
SIGUSR1 makes it go to the next one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mtcp import policy
from mtcp.address import Endpoint
from mtcp.errors import MtcpError
from testbed.clients import connections, workloads
from testbed.clients.record import Record
from testbed.clients.sessions import CONNECT_TIMEOUT, RETRIES, Resuming, Staying
from testbed.errors import TestbedError


def servers(text: str) -> dict[str, Endpoint]:
    """Read s1=10.0.0.1:80,s2=10.0.0.2:80; ValueError."""
    pairs = [each.partition("=") for each in text.split(",")]
    return {name: Endpoint.parse(address) for name, _, address in pairs}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="testbed.clients.http", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--connect", choices=connections.KINDS, default="tcp")
    common.add_argument("--servers", type=servers, required=True, metavar="NAME=ADDRESS:PORT,…", help="best first")
    common.add_argument(
        "--ca", type=Path, metavar="FILE", help="certificates that it believes, of quic (the public ones)"
    )
    common.add_argument("--start-at", type=float, default=0.0, metavar="SECONDS", help="(now)")
    common.add_argument("--end-at", type=float, required=True, metavar="SECONDS")
    common.add_argument("--path", default="/big")
    common.add_argument("--policy", metavar="SPEC", help="leave servers as it says, and when connections break")
    what = "with --policy: seconds to wait for a connection"
    common.add_argument("--connect-timeout", type=float, default=CONNECT_TIMEOUT, metavar="SECONDS", help=what)
    what = "with --policy: how often in a row to try again without getting anything"
    common.add_argument("--retries", type=int, default=RETRIES, help=what)
    common.add_argument("--out", type=Path, required=True, metavar="DIR")
    kinds = parser.add_subparsers(dest="workload", required=True)
    kinds.add_parser("download", parents=[common], help="one file, as fast as it comes")
    requests = kinds.add_parser("requests", parents=[common], help="a file again and again, kept alive")
    requests.add_argument("--think", type=float, default=0.0, metavar="SECONDS", help="from answer to request (0)")
    stream = kinds.add_parser("stream", parents=[common], help="media at a constant rate, with a play-out buffer")
    stream.add_argument("--rate", type=float, default=20.0, metavar="MBIT/S", help="of the media (20)")
    stream.add_argument("--segment", type=float, default=0.5, metavar="SECONDS", help="of media a request (0.5)")
    stream.add_argument("--buffer", type=float, default=4.0, metavar="SECONDS", help="of media held at most (4)")
    return parser


def _session(options: argparse.Namespace, record: Record) -> Staying:
    kind = connections.kind(options.connect)
    kind.ca = options.ca
    if options.policy is None:
        return Staying(options.servers, kind, record)
    chosen = policy.make(options.policy)()
    return Resuming(options.servers, kind, record, chosen, options.connect_timeout, options.retries)


async def _work(options: argparse.Namespace, session: Staying, record: Record) -> None:
    if options.workload == "requests":
        await workloads.requests(session, record, options.path, options.think)
    elif options.workload == "stream":
        media = workloads.Media(options.rate, options.segment, options.buffer)
        await workloads.stream(session, record, options.path, media)
    else:
        await workloads.download(session, record, options.path)


async def run(options: argparse.Namespace, record: Record) -> None:
    """Do the workload until --end-at or SIGTERM; TestbedError, Broken when it does not last so long."""
    if options.end_at <= max(options.start_at, time.monotonic()):
        raise TestbedError("--end-at is over, or not after --start-at: nothing can be done in no time")
    try:
        async with asyncio.timeout_at(options.end_at) as limit, _session(options, record) as session:
            _on_signal(signal.SIGTERM, lambda: limit.reschedule(0))
            if isinstance(session, Resuming):
                tasks = set()
                _on_signal(signal.SIGUSR1, lambda: tasks.add(asyncio.create_task(session.move_on())))
            print("ready", flush=True)
            await asyncio.sleep(options.start_at - time.monotonic())
            record.started_ns = time.monotonic_ns()
            await _work(options, session, record)
    except TimeoutError:
        if not limit.expired():
            raise


def _on_signal(number: signal.Signals, act: Callable[[], object]) -> None:
    """Let the running loop `act` at this signal; the signal means nothing once that has ended. Not so asyncio's own
    handlers: with the loop the signal's default action would come back, while the files are written."""
    loop = asyncio.get_running_loop()

    def in_loop() -> None:
        with contextlib.suppress(RuntimeError):  # it is ending already
            act()

    def handle(_number: int, _frame: object) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(in_loop)

    signal.signal(number, handle)


def main() -> int:
    options = _parser().parse_args()
    record, error = Record(), ""
    try:
        asyncio.run(run(options, record))
    except (TestbedError, MtcpError, OSError) as problem:
        error = str(problem)
        print(f"client: {error}", file=sys.stderr)
    record.ended_ns = time.monotonic_ns()
    told = {"workload": options.workload, "connect": options.connect, "policy": options.policy, "path": options.path}
    record.write(options.out, error, told)
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main())
