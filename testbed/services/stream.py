"""Bytes that can be checked, at any pace, in either direction: for clients that look at every one of them.

    python -m testbed.services.stream --port 7001 [--asyncio] [--state BYTES]

A client's first line says what it wants:

    DOWN bytes chunk interval_us    so many bytes, `chunk` of them every interval; 0: as fast as they go
    UP bytes                        it sends so many; the answer is "OK bytes" or "BAD offset"
    ECHO [every]                    everything comes back; it exports when `every` more bytes have (0: at once)

No bytes (0): until the client ends its stream; DOWN goes on then to a whole number of PERIODs, by which the client
knows that it has all.

Byte i of a direction is `pattern`'s (testbed/clients/strict.c has the same). What each must export differs:
DOWN nothing, since its request is read again and the library knows where in the stream the client is; UP how far it
has verified; ECHO only that it is one, but all that came since is read, and written, again. With --state, DOWN exports
so many bytes that cannot be compressed, beside its request: for measuring what an application's state costs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import random
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

import mtcp
from mtcp import aio
from mtcp.capsule import STATE_MAX
from testbed.services.threads import serve_forever

PERIOD = 1048573
"""A prime near 1 MiB, and no multiple of any buffer's size."""
DOWN, UP = 1, 2
"""Seeds of the two directions."""
EXPORT_EVERY = 1 << 18
PIECE = 1 << 16
BACKLOG = 4096
"""Clients that may come at the same instant. For more than that the kernel has SYN cookies, without M-TCP's option."""


@functools.cache
def _table(seed: int) -> bytes:
    """Two periods, so that every piece of up to one is contiguous."""
    table, x = bytearray(PERIOD), seed
    for i in range(PERIOD):
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
        table[i] = x >> 24
    return bytes(table * 2)


def pattern(direction: int, offset: int, length: int) -> bytes:
    """Bytes [offset, offset + length) of a direction; at most PERIOD of them."""
    start = offset % PERIOD
    return _table(direction)[start : start + length]


def serve(connection: mtcp.Connection, state: bytes = b"") -> None:
    """Serve one connection, from wherever it is, to its end. `state`: what DOWN exports beside its request."""
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
        if what == "DOWN":
            if state and (imported is None or not imported.state):
                connection.export_state(line + b"\n" + state)
            down(connection, *map(int, numbers))
        elif what == "UP":
            up(connection, rest, *map(int, numbers))
        else:
            echo(connection, rest, *map(int, numbers))


class End:
    """Where a DOWN ends."""

    def __init__(self, total: int, recv_nowait: Callable[[], bytes]) -> None:
        self.at = total or sys.maxsize
        self._told = bool(total)
        self._recv_nowait = recv_nowait

    def left(self, offset: int, at_most: int) -> int:
        """How many bytes come next; 0 at the end."""
        with contextlib.suppress(BlockingIOError):
            if not self._told and not self._recv_nowait():
                self._told, self.at = True, -(-offset // PERIOD) * PERIOD
        return min(at_most, self.at - offset)


def recv_nowait(connection: mtcp.Connection) -> bytes:
    connection.settimeout(0)
    try:
        return connection.recv(PIECE)
    finally:
        connection.settimeout(None)


def down(connection: mtcp.Connection, total: int, chunk: int, interval_us: int) -> None:
    if interval_us:
        # Each piece when it is due, not when the one before it has been acknowledged.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end = End(total, partial(recv_nowait, connection))
    offset = connection.discard(end.at)
    due = time.monotonic()
    while length := end.left(offset, chunk):
        connection.sendall(pattern(DOWN, offset, length))
        offset += length
        if interval_us:
            due = max(due + interval_us / 1e6, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))
    while connection.recv(PIECE):
        pass


def up(connection: mtcp.Connection, data: bytes, total: int, offset: int = 0) -> None:
    exported, end = offset, total or sys.maxsize
    while offset < end:
        data = data or connection.recv(min(PIECE, end - offset))
        if not data and not total:
            break
        if not data or data != pattern(UP, offset, len(data)):
            connection.sendall(b"BAD %d\n" % offset)
            return
        offset += len(data)
        data = b""
        if offset - exported >= EXPORT_EVERY:
            connection.export_state(b"UP %d %d\n" % (total, offset))
            exported = offset
    connection.sendall(b"OK %d\n" % offset)


def echo(connection: mtcp.Connection, data: bytes, every: int = 0) -> None:
    unexported = len(data)
    connection.sendall(data)
    while True:
        if unexported >= every:
            connection.export_state(b"ECHO %d\n" % every)
            unexported = 0
        data = connection.recv(PIECE)
        if not data:
            return
        connection.sendall(data)
        unexported += len(data)


async def serve_async(connection: aio.Connection) -> None:
    """As `serve`."""
    async with connection:
        with contextlib.suppress(ConnectionError):
            imported = connection.import_state()
            request = imported.state if imported is not None else b""
            while b"\n" not in request:
                data = await connection.recv(PIECE)
                if not data:
                    return
                request += data
            line, rest = request.split(b"\n", 1)
            what, *numbers = line.decode().split()
            if what == "DOWN":
                await down_async(connection, *map(int, numbers))
            elif what == "UP":
                await up_async(connection, rest, *map(int, numbers))
            else:
                await echo_async(connection, rest, *map(int, numbers))


async def down_async(connection: aio.Connection, total: int, chunk: int, interval_us: int) -> None:
    end = End(total, partial(connection.recv_nowait, PIECE))
    offset = connection.discard(end.at)
    while length := end.left(offset, chunk):
        await connection.sendall(pattern(DOWN, offset, length))
        offset += length
        await asyncio.sleep(interval_us / 1e6)
    while await connection.recv(PIECE):
        pass


async def up_async(connection: aio.Connection, data: bytes, total: int, offset: int = 0) -> None:
    exported, end = offset, total or sys.maxsize
    while offset < end:
        data = data or await connection.recv(min(PIECE, end - offset))
        if not data and not total:
            break
        if not data or data != pattern(UP, offset, len(data)):
            await connection.sendall(b"BAD %d\n" % offset)
            return
        offset += len(data)
        data = b""
        if offset - exported >= EXPORT_EVERY:
            await connection.export_state(b"UP %d %d\n" % (total, offset))
            exported = offset
    await connection.sendall(b"OK %d\n" % offset)


async def echo_async(connection: aio.Connection, data: bytes, every: int = 0) -> None:
    unexported = len(data)
    await connection.sendall(data)
    while True:
        if unexported >= every:
            await connection.export_state(b"ECHO %d\n" % every)
            unexported = 0
        data = await connection.recv(PIECE)
        if not data:
            return
        await connection.sendall(data)
        unexported += len(data)


async def main_async(port: int) -> None:
    tasks: set[asyncio.Task[None]] = set()
    with aio.listen(("", port), backlog=BACKLOG) as listener:
        print("listening", flush=True)
        while True:
            task = asyncio.create_task(serve_async(await listener.accept()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=7001)
    parser.add_argument("--asyncio", action="store_true", help="one event loop instead of a thread per connection")
    parser.add_argument("--plain", action="store_true", help="plain TCP, for comparison: connections do not move")
    parser.add_argument("--state", type=int, default=0, metavar="BYTES", help="of DOWN's state (threads only)")
    options = parser.parse_args()
    state = random.Random(0).randbytes(options.state)
    largest = max(STATE_MAX, len(state) + PIECE)  # the request stands before it
    pattern(DOWN, 0, 0), pattern(UP, 0, 0)  # made before the first client waits for them
    try:
        if options.asyncio:
            asyncio.run(main_async(options.port))
        address, migratable = ("", options.port), not options.plain
        with mtcp.listen(address, backlog=BACKLOG, migratable=migratable, state_max=largest) as listener:
            print("listening", flush=True)
            serve_forever(listener, partial(serve, state=state))
    except (mtcp.MtcpError, OSError) as error:
        print(f"stream: cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
