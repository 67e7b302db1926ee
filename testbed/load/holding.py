"""Connections that are held open and want nothing, or want it slowly.

Silent ones wait in the accept queue until the service takes them, and then occupy whatever it has for a connection.
Slow ones send an HTTP request that never ends, a line at a time, so that no timeout of idleness ends them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from testbed import generators

_CONNECT_TIMEOUT = 10.0
_CATCH_UP = 0.1  # seconds
_HEAD = "GET {path} HTTP/1.1\r\nHost: {host}\r\n"
_LINE = b"X-More: to come\r\n"


def hold(
    target: tuple[str, int],
    *,
    connections: int,
    rate: float,
    seconds: float,
    slow: float | None = None,
    path: str = "/",
) -> dict[str, Any]:
    """Keep `connections` to `target` open, opened `rate` a second, for `seconds`; what came of them.

    `slow`: seconds between the lines of their requests for `path`; None: silent. Each that the service ends is
    opened again, at that rate. ValueError beyond LIMITS.
    """
    generators.bounded(connections=connections, rate=rate, seconds=seconds)
    if slow is not None and slow <= 0:
        raise ValueError(f"{slow:g} is no time between lines")
    generators.allow_descriptors()
    head = _HEAD.format(path=path, host=target[0]).encode()
    return asyncio.run(_hold(target, connections, rate, seconds, head, slow))


async def _hold(
    target: tuple[str, int], connections: int, rate: float, seconds: float, head: bytes, slow: float | None
) -> dict[str, Any]:
    counted: Counter[str] = Counter(dict.fromkeys(("opened", "refused", "unanswered", "ended_by_service"), 0))
    running: set[asyncio.Task[None]] = set()
    open_now = held_most = started = 0
    next_at = 0.0

    async def one() -> None:
        nonlocal open_now, held_most
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(*target)
        except TimeoutError:
            counted["unanswered"] += 1
            return
        except OSError:
            counted["refused"] += 1
            return
        counted["opened"] += 1
        open_now += 1
        held_most = max(held_most, open_now)
        try:
            if slow is not None:
                writer.write(head)
            while True:
                pace = asyncio.timeout(slow)  # not wait_for, which before Python 3.12 may lose cancellations
                try:
                    async with pace:
                        if not await reader.read(4096):
                            break
                except TimeoutError:
                    if not pace.expired():  # the connection's own
                        break
                    writer.write(_LINE)
            counted["ended_by_service"] += 1
        except OSError:
            counted["ended_by_service"] += 1
        finally:
            open_now -= 1
            writer.transport.abort()

    until = generators.Until(seconds)
    generators.announce()
    while not until.over:
        while len(running) < connections and next_at <= until.passed:
            task = asyncio.create_task(one())
            running.add(task)
            task.add_done_callback(running.discard)
            started += 1
            next_at = max(next_at + 1 / rate, until.passed - _CATCH_UP)
        await asyncio.sleep(until.pause(max(1 / rate, 0.005)))
    passed, held_at_end = until.passed, open_now
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return {
        "asked": connections,
        "started": started,
        **counted,
        "held_most": held_most,
        "held_at_end": held_at_end,
        "seconds": round(passed, 3),
    }
