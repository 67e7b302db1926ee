"""Background clients of an HTTP service.

Open loop: requests arrive as a Poisson process, whatever becomes of those before, each a new client with a connection
of its own. Closed loop: so many clients, each of which asks, waits for the answer, thinks, and asks again.

In open loop latency is counted from the instant at which the request should have been made, not from when it was:
what is late, for whatever reason, is in it (no coordinated omission). How late the generator was stands beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h11
import numpy as np

from testbed import generators

TIMEOUT = 10.0
_DRAWN = 1024


@dataclass
class Request:
    """One observation. Times: CLOCK_MONOTONIC for `time_s`, the others are durations."""

    time_s: float
    """When it should have been made; in closed loop, when it was."""
    client: int
    late_ms: float = 0.0
    """The generator's own delay."""
    latency_ms: float = 0.0
    """From `time_s` to the last byte of the answer, or to the failure."""
    ok: bool = False
    """A whole answer of status 2xx."""
    bytes: int = 0
    """Of the body."""
    status: int = 0
    error: str = ""


@dataclass(frozen=True)
class Service:
    """What is asked for, and how long a client waits."""

    host: str
    port: int
    path: str = "/"
    timeout: float = TIMEOUT


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Instants of a Poisson process of `rate` a second, in [0, seconds); the same for the same seed."""
    draw, now = np.random.default_rng(seed), 0.0
    while True:
        for gap in draw.exponential(1 / rate, _DRAWN):
            now += float(gap)
            if now >= seconds:
                return
            yield now


def open_loop(
    service: Service, *, rate: float, seconds: float, seed: int, wait: bool = False, patient: bool = True
) -> tuple[list[Request], dict[str, Any]]:
    """Requests at random instants, `rate` a second; every one of them, and a summary. ValueError beyond LIMITS.

    Where LIMITS.connections are open already the request is not made, but stands as a failure: "not made".
    `wait`: for SIGUSR1; see generators.Until. `patient`: answers that have not come in the end are waited for.
    """
    generators.bounded(rate=rate, seconds=seconds, count=rate * seconds)
    rows, until = _run(_open(service, arrivals(rate, seconds, seed), generators.Until(seconds, wait), patient))
    made = sum(row.error != NOT_MADE for row in rows)
    return rows, {"asked_rate": rate, "rate": round(made / until, 2), **summary(rows, until)}


def closed_loop(
    service: Service,
    *,
    clients: int,
    think: float,
    seconds: float,
    seed: int,
    keep: bool,
    wait: bool = False,
) -> tuple[list[Request], dict[str, Any]]:
    """`clients` that think so many seconds (exponential, in the mean) after each answer, and a summary.

    `keep`: each keeps its connection as long as the service does. `wait` as in open_loop. ValueError beyond LIMITS.
    """
    generators.bounded(connections=clients, seconds=seconds)
    if think < 0:
        raise ValueError(f"{think:g} s is no time to think")
    rows, until = _run(_closed(service, clients, think, generators.Until(seconds, wait), seed, keep))
    return rows, {"clients": clients, "think_s": think, "rate": round(len(rows) / until, 2), **summary(rows, until)}


NOT_MADE = "not made"


def summary(rows: list[Request], seconds: float) -> dict[str, Any]:
    """Counts, and quantiles of the latency of what succeeded and of the generator's lateness."""
    succeeded = [row.latency_ms for row in rows if row.ok]
    return {
        "seconds": round(seconds, 3),
        "requests": len(rows),
        "ok": len(succeeded),
        "failed": len(rows) - len(succeeded),
        "not_made": sum(row.error == NOT_MADE for row in rows),
        "bytes": sum(row.bytes for row in rows),
        "latency_ms": _quantiles(succeeded),
        "late_ms": _quantiles([row.late_ms for row in rows]),
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    marks = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: round(float(np.percentile(values, mark)), 3) for name, mark in marks.items()}


def _run(loop: Any) -> tuple[list[Request], float]:
    generators.allow_descriptors()
    rows: list[Request]
    rows, seconds = asyncio.run(loop)
    return rows, seconds


async def _open(
    service: Service, instants: Iterator[float], until: generators.Until, patient: bool
) -> tuple[list[Request], float]:
    loop = asyncio.get_running_loop()
    rows: list[Request] = []
    running: set[asyncio.Task[_Connection | None]] = set()
    until.announce()

    def arrive() -> None:
        # In a thread: the loop's own clock wakes it at whole milliseconds only.
        for client, instant in enumerate(instants):
            while (wait := instant - until.passed) > 0 and not until.over:
                time.sleep(until.pause(wait))
            if wait > 0:
                return
            loop.call_soon_threadsafe(make, Request(until.begun + instant, client))
        while not until.over:
            time.sleep(until.pause(1.0))

    def make(row: Request) -> None:
        rows.append(row)
        row.late_ms = 1000 * (loop.time() - row.time_s)
        if len(running) >= generators.LIMITS.connections:
            row.error = NOT_MADE
            return
        task = asyncio.create_task(_ask(service, row, None, keep=False))
        running.add(task)
        task.add_done_callback(running.discard)

    await asyncio.to_thread(arrive)
    passed = until.passed
    if not patient:
        for task in running:
            task.cancel()
    await asyncio.gather(*running, return_exceptions=not patient)
    return rows, passed


async def _closed(
    service: Service, clients: int, think: float, until: generators.Until, seed: int, keep: bool
) -> tuple[list[Request], float]:
    now = asyncio.get_running_loop().time
    rows: list[Request] = []

    async def client(number: int) -> None:
        draw = np.random.default_rng([seed, number])
        connection: _Connection | None = None
        # They do not start all at once.
        wish = now() + float(draw.exponential(think)) if think else now()
        while True:
            while (wait := wish - now()) > 0 and not until.over:
                await asyncio.sleep(until.pause(wait))
            if until.over:
                break
            row = Request(now(), number, late_ms=1000 * -wait)
            rows.append(row)
            connection = await _ask(service, row, connection, keep)
            wish = now() + (float(draw.exponential(think)) if think else 0.0)
            if not row.ok:
                wish = max(wish, now() + _AFTER_FAILURE)
        if connection is not None:
            connection.transport.abort()

    until.announce()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return rows, until.passed


_AFTER_FAILURE = 0.1
"""Seconds. A client that is refused at once does not ask in a tight loop."""


async def _ask(service: Service, row: Request, connection: _Connection | None, keep: bool) -> _Connection | None:
    """Make the request and fill in `row`; the connection for the next one, None when that needs another."""
    loop = asyncio.get_running_loop()
    deadline = max(loop.time(), row.time_s) + service.timeout
    try:
        async with asyncio.timeout_at(deadline):
            if connection is None or connection.transport.is_closing():
                _, connection = await loop.create_connection(_Connection, service.host, service.port)
            row.status, row.bytes = await connection.ask(service, keep)
            row.ok = 200 <= row.status < 300
            row.error = "" if row.ok else f"status {row.status}"
    except TimeoutError:
        row.error = "timeout"
    except (OSError, h11.ProtocolError) as error:
        row.error = type(error).__name__
    row.latency_ms = 1000 * (loop.time() - row.time_s)
    if connection is not None and (row.error or not connection.reusable):
        connection.transport.abort()
        return None
    return connection


class _Connection(asyncio.Protocol):
    """An HTTP client's connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._answer: asyncio.Future[tuple[int, int]] | None = None
        self._status = self._bytes = 0

    @property
    def reusable(self) -> bool:
        """Whether it takes another request."""
        return self._http.our_state is h11.IDLE

    def ask(self, service: Service, keep: bool) -> asyncio.Future[tuple[int, int]]:
        """Send the request; to come: status and bytes of the answer's body."""
        self._answer = asyncio.get_running_loop().create_future()
        self._status = self._bytes = 0
        headers = [("Host", service.host), ("Connection", "keep-alive" if keep else "close")]
        request = h11.Request(method="GET", target=service.path, headers=headers)
        parts = (self._http.send(request), self._http.send(h11.EndOfMessage()))
        self.transport.write(b"".join(part or b"" for part in parts))
        return self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            for event in iter(self._http.next_event, h11.NEED_DATA):
                if self._take(event):
                    return
        except h11.ProtocolError as error:
            self._end(error)

    def eof_received(self) -> None:
        self.data_received(b"")

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionResetError())

    def _take(self, event: Any) -> bool:
        """Whether nothing more is to be expected."""
        if isinstance(event, h11.Response):
            self._status = event.status_code
        elif isinstance(event, h11.Data):
            self._bytes += len(event.data)
        elif isinstance(event, h11.EndOfMessage):
            if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                self._http.start_next_cycle()
            if self._answer is not None and not self._answer.done():
                self._answer.set_result((self._status, self._bytes))
            return True
        return event is h11.PAUSED or isinstance(event, h11.ConnectionClosed)

    def _end(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
