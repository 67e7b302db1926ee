"""A service one of whose streams ends before the other. A client's first line says how:

    AFTER bytes interval_us     it reads to the client's end, and then sends so many, 4 kB every interval
    UNREAD bytes interval_us    it does not look whether there is an end
    BOTH bytes                  as AFTER at once, ends its own stream, too, and keeps the connection until it leaves
    ENDED export_every          it sends GREETING bytes and ends its stream, takes all, prints "taken N" or "bad N"

Where `bytes` is a path it sends until there is such a file, and on to a whole number of PERIODs. Bytes are
testbed.services.stream's pattern. python tests/services/half_closed.py --port 7102
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import time
from pathlib import Path

import mtcp
from testbed.services.stream import DOWN, PERIOD, UP, pattern
from testbed.services.threads import serve_forever

GREETING = 100_000
PIECE = 1 << 16
KEPT = 60.0
"""Seconds for which BOTH keeps a connection."""


def serve(connection: mtcp.Connection) -> None:
    with connection, contextlib.suppress(ConnectionError):
        imported = connection.import_state()
        request = imported.state if imported is not None else b""
        while b"\n" not in request:
            data = connection.recv(PIECE)
            if not data:
                return
            request += data
        line, rest = request.split(b"\n", 1)
        what, *numbers = line.decode().split()
        if what == "ENDED":
            ended(connection, rest, *map(int, numbers))
        else:
            while what != "UNREAD" and connection.recv(PIECE):
                pass
            after(connection, numbers[0], *map(int, numbers[1:]))
        if what == "BOTH":
            connection.shutdown(socket.SHUT_WR)
            keep(connection)


def after(connection: mtcp.Connection, size: str, interval_us: int = 0) -> None:
    told = None if size.isdigit() else Path(size)
    total = int(size) if told is None else sys.maxsize
    offset = connection.discard(total)
    while offset < total:
        if told is not None and told.exists():
            told, total = None, -(-(offset + 1) // PERIOD) * PERIOD
        length = min(4000 if interval_us else PIECE, total - offset)
        connection.sendall(pattern(DOWN, offset, length))
        offset += length
        time.sleep(interval_us / 1e6)


def keep(connection: mtcp.Connection) -> None:
    """Until it is gone, or KEPT seconds."""
    deadline = time.monotonic() + KEPT
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            connection.settimeout(0.01)
            connection.shutdown(socket.SHUT_WR)
            time.sleep(0.005)


def ended(connection: mtcp.Connection, data: bytes, export_every: int, offset: int = 0) -> None:
    if not offset:
        connection.sendall(pattern(DOWN, 0, GREETING))
        connection.shutdown(socket.SHUT_WR)
    exported = offset
    while data := data or connection.recv(PIECE):
        if data != pattern(UP, offset, len(data)):
            print(f"bad {offset}", flush=True)
            return
        offset += len(data)
        data = b""
        if offset - exported >= export_every:
            connection.export_state(b"ENDED %d %d\n" % (export_every, offset))
            exported = offset
    print(f"taken {offset}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    pattern(DOWN, 0, 0), pattern(UP, 0, 0)
    with mtcp.listen(("", options.port)) as listener:
        print("listening", flush=True)
        serve_forever(listener, serve)


if __name__ == "__main__":
    main()
