"""How a client program stays with its servers: with the first, whatever comes; or with one after the other.

`Staying` has one connection, and its errors are final. `Resuming` is what an application can do by itself: it leaves a
server, because a policy says so or the connection broke, and goes on at another by asking it for the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any, Self

from mtcp.address import Endpoint
from mtcp.policy import Policy, View
from testbed.clients.connections import Broken, Connection
from testbed.clients.record import Record

CONNECT_TIMEOUT = 3.0
RETRIES = 10
RETRY_PAUSE = 0.2
"""Seconds between attempts when no server has given anything."""


class Staying:
    """One connection to the first server; made when it is first needed."""

    def __init__(self, servers: Mapping[str, Endpoint], kind: type[Connection], record: Record) -> None:
        """`servers`: by name."""
        self._servers, self._kind, self._record = dict(servers), kind, record
        self.server = next(iter(self._servers))
        """The one that it wants to be with, by name."""
        self._connection: Connection | None = None
        self._connected_to = ""

    async def fetch(self, path: str, first: int = 0, end: int | None = None) -> None:
        """Get bytes [first, end) of `path` (`end` None: to its end) into the record; errors as of Connection."""
        connection, server = await self._connected()
        async with contextlib.aclosing(connection.fetch(path, first, end)) as pieces:
            async for piece in pieces:
                self._record.delivered(piece, server)

    async def _connected(self) -> tuple[Connection, str]:
        """The connection, made now if need be, and whom it is to."""
        if self._connection is None:
            connection, server = self._kind(), self.server
            try:
                await connection.open(self._servers[server])
            except BaseException:
                connection.close()
                raise
            self._connection, self._connected_to = connection, server
            self._record.opened(server, connection.local_port)
        return self._connection, self._connected_to

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._drop()


class Resuming(Staying):
    """Leaves a server when its policy says so, when the connection breaks, or when it does not come about."""

    def __init__(
        self,
        servers: Mapping[str, Endpoint],
        kind: type[Connection],
        record: Record,
        policy: Policy,
        connect_timeout: float = CONNECT_TIMEOUT,
        retries: int = RETRIES,
    ) -> None:
        """`connect_timeout`: seconds. `retries`: how often in a row it tries again without getting a byte."""
        super().__init__(servers, kind, record)
        self._policy, self._connect_timeout, self._retries = policy, connect_timeout, retries
        self._names = {endpoint: name for name, endpoint in self._servers.items()}
        self._opening = asyncio.Lock()
        self._fetching: asyncio.Timeout | None = None
        """Of the fetch under way: it ends at once when a policy wants to leave."""
        self._observing: asyncio.Task[None] | None = None
        self._received = self._sent = 0
        """On connections before this one."""

    async def fetch(self, path: str, first: int = 0, end: int | None = None) -> None:
        """As of Staying; goes on from the last byte that has come. Broken only after `retries`."""
        begun, failures = self._record.size, 0
        while end is None or first < end:
            try:
                async with asyncio.timeout(None) as self._fetching:
                    await super().fetch(path, first, end)
                return
            except TimeoutError:
                self._drop()
            except Broken:
                failures = 1 if self._record.size > begun else failures + 1
                if failures > self._retries:
                    raise
                self._leave(self._next(), "error")
                self._drop()
            finally:
                self._fetching = None
                first, begun = first + self._record.size - begun, self._record.size
            if failures >= len(self._servers):
                await asyncio.sleep(RETRY_PAUSE)

    async def move(self, server: str, why: str) -> None:
        """Go to `server` now: a fetch under way goes on there, and if there is none the connection is made ready."""
        self._leave(server, why)
        if self._fetching is not None:
            with contextlib.suppress(RuntimeError):  # it is ending already, and will see where to go
                self._fetching.reschedule(0)
            return
        self._drop()
        with contextlib.suppress(Broken):  # then the next fetch finds out
            await self._connected()

    async def move_on(self) -> None:
        """Go to the next server: whoever runs the program wants it."""
        await self.move(self._next(), "operator")

    def view(self) -> View:
        """What the policy sees: all connections are one to it."""
        current, connection = self._servers[self.server], self._connection
        others = tuple(each for each in self._servers.values() if each != current)
        received, sent = self._received, self._sent
        seen: Mapping[str, Any] = {}
        if connection is not None:
            received, sent = received + connection.received, sent + connection.sent
            seen = connection.observed() if self._policy.wants_kernel else {}
        waiting = self._fetching is not None
        return View(time.monotonic(), current, others, received, sent, waiting=waiting, **seen)

    async def _observe(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            server = self._policy.observe(self.view())
            if server is not None and self._names[server] != self.server:
                await self.move(self._names[server], "policy")

    def _next(self) -> str:
        names = list(self._servers)
        return names[(names.index(self.server) + 1) % len(names)]

    def _leave(self, server: str, why: str) -> None:
        self._record.decided(self.server, server, why)
        self.server = server

    async def _connected(self) -> tuple[Connection, str]:
        async with self._opening:
            if self._connected_to != self.server:
                self._drop()
            try:
                async with asyncio.timeout(self._connect_timeout):
                    return await super()._connected()
            except TimeoutError:
                raise Broken(f"{self.server} does not answer within {self._connect_timeout:g} s") from None

    def _drop(self) -> None:
        if self._connection is not None:
            self._received += self._connection.received
            self._sent += self._connection.sent
        super()._drop()

    async def __aenter__(self) -> Self:
        if self._policy.interval is not None:
            self._observing = asyncio.create_task(self._observe(self._policy.interval))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._observing is not None:
            self._observing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._observing
        self._drop()
