"""One connection after the other, a request on each: how long it takes until there is a connection, and an answer.

    python -m testbed.clients.connecting 10.0.0.1:80 --path /small --start-at 1234.5 --end-at 1239.5 --out rows.parquet

Instants are seconds of CLOCK_MONOTONIC. The rows: begun_ns, connected_ns, answered_ns (all of the answer was there).
Prints as one line of JSON how many bytes of bodies it got, their hash, and figures; exit status 1 when one fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import statistics
import sys
import time
from pathlib import Path

from mtcp.address import Endpoint

TIMEOUT = 10.0
"""Seconds for a connection, and for each piece of the answer."""
PIECE = 1 << 16
Row = tuple[int, int, int]


def connect(server: Endpoint, path: str) -> tuple[Row, bytes]:
    """Connect, ask, read to the end; when each was done, and the answer's body. OSError; ValueError if it is none."""
    request = f"GET {path} HTTP/1.1\r\nHost: {server.ip}\r\nConnection: close\r\n\r\n".encode()
    begun = time.monotonic_ns()
    with socket.create_connection((server.ip, server.port), TIMEOUT) as sock:
        connected = time.monotonic_ns()
        sock.sendall(request)
        answer = b""
        while data := sock.recv(PIECE):
            answer += data
        answered = time.monotonic_ns()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"{server} answers {head[:40]!r}")
    return (begun, connected, answered), body


def summary(rows: list[Row], seconds: float) -> dict[str, float]:
    """Median and 99th percentile of both times in ms, and the rate; ValueError for fewer than two rows."""
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} connections are too few")
    found = {"connections": len(rows), "connections_per_s": round(len(rows) / seconds, 3)}
    for name, last in (("connect", 1), ("answer", 2)):
        times = [(row[last] - row[0]) / 1e6 for row in rows]
        found[f"{name}_ms_median"] = round(statistics.median(times), 4)
        found[f"{name}_ms_p99"] = round(statistics.quantiles(times, n=100, method="inclusive")[98], 4)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", type=Endpoint.parse, metavar="ADDRESS:PORT")
    parser.add_argument("--path", default="/small")
    parser.add_argument("--start-at", type=float, default=0.0)
    parser.add_argument("--end-at", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    time.sleep(max(0.0, options.start_at - time.monotonic()))
    begun, rows, size, digest = time.monotonic(), [], 0, hashlib.sha256()
    try:
        while time.monotonic() < options.end_at:
            row, body = connect(options.server, options.path)
            rows.append(row)
            size += len(body)
            digest.update(body)
        found = summary(rows, time.monotonic() - begun)
    except (OSError, ValueError) as error:
        print(f"connecting: {error}", file=sys.stderr)
        return 1
    import pandas as pd  # slow to import: after the work

    frame = pd.DataFrame(rows, columns=["begun_ns", "connected_ns", "answered_ns"])
    frame.to_parquet(options.out, index=False)
    print(json.dumps({"bytes": size, "sha256": digest.hexdigest(), "figures": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
