"""Runs on the client's host: has the host's agent move its connection to and fro while something goes on.

    python -m experiments.mover --servers s1=10.0.0.1,s2=10.0.0.2 --migrations 200 --file F --size 500000000
    python -m experiments.mover --servers s1=10.0.0.1,s2=10.0.0.2 --migrations 100 --interval 0.05

With --file, move k of n starts when the file has grown to k/(n+1) of its size, and by some since the last move, so
that each server sends a part; otherwise the moves are --interval seconds apart. Prints each outcome as a line of
JSON; exit status 1 when a move could not be started.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from mtcp.agent import local
from mtcp.errors import MtcpError

PART = 1 << 18
"""Bytes of each server that reach the file between two moves, at least; more than curl's own buffer."""
PATIENCE = 30.0
"""Seconds for the connection to appear, and for the file to grow to the next step."""


class Stalled(Exception):
    """What was to go on does not."""


def connection() -> dict[str, object]:
    """The host's migratable connection, as soon as it has heard where it may go."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        rows = [r for r in local.request({"op": "ls"})["connections"] if r["role"] == "client" and r["others"]]
        if rows:
            return dict(rows[0])
        time.sleep(0.005)
    raise Stalled(f"no migratable connection within {PATIENCE:g} s")


def wait_for_size(file: Path, size: int) -> None:
    """Return when `file` has at least `size` bytes."""
    deadline = time.monotonic() + PATIENCE
    while not file.exists() or file.stat().st_size < size:
        if time.monotonic() > deadline:
            raise Stalled(f"the download did not reach {size} bytes within {PATIENCE:g} s of the last move")
        time.sleep(0.002)


def unread(connection: str) -> int:
    """Bytes that the client's kernel has for its application: those of the server before may be among them."""
    port = f":{int(connection.rpartition(':')[2]):04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local_end, _, _, queues, *_ = line.split()
        if local_end.endswith(port):
            return int(queues.split(":")[1], 16)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", required=True)
    parser.add_argument("--migrations", type=int, required=True)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--interval", type=float, default=0.05)
    options = parser.parse_args()
    servers = [server.split("=")[1] for server in options.servers.split(",")]
    try:
        found = connection()
        print(json.dumps({"connection": found["connection"]}), flush=True)
        reached = 0
        for number in range(1, options.migrations + 1):
            if options.file:
                step = number * options.size // (options.migrations + 1)
                wait_for_size(options.file, max(step, reached + PART))
            else:
                time.sleep(options.interval)
            request = {"op": "migrate", "connection": found["connection"], "to": servers[number % len(servers)]}
            print(json.dumps(local.request(request)), flush=True)
            reached = options.file.stat().st_size + unread(str(found["connection"])) if options.file else 0
    except (MtcpError, Stalled) as error:
        print(f"mover: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
