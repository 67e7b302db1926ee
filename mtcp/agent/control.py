"""Control connections between the agents of a pool: one TCP connection in each direction, kept open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mtcp.address import Endpoint
from mtcp.errors import RemoteProtocolError
from mtcp.pool import Server
from mtcp.wire.frames import Frame, FrameReader, encode

log = logging.getLogger(__name__)
REDIAL_FIRST, REDIAL_LAST = 0.05, 1.0
"""Seconds between attempts to reach an agent that is not there: doubled each time, from the first to the last."""


class ControlConnection(asyncio.Protocol):
    """One control connection, dialled or accepted."""

    def __init__(self, name: str, on_frame: Callable[[Frame, ControlConnection], None]) -> None:
        self.name = name
        self.closed = asyncio.get_running_loop().create_future()
        self._on_frame = on_frame
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._on_frame(frame, self)
        except RemoteProtocolError as error:
            log.warning("control connection %s: %s; closed", self.name, error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, frame: Frame) -> bool:
        """False when the connection is gone: whoever needs an answer repeats."""
        if self._transport is None:
            return False
        self._transport.write(encode(frame))
        return True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class ControlNetwork:
    """This agent's control connections."""

    def __init__(self, own: Server, others: list[Server], on_frame: Callable[[Frame, ControlConnection], None]) -> None:
        self._own = own
        self._others = others
        self._on_frame = on_frame
        self._dialled: dict[str, ControlConnection] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self._accepted: set[ControlConnection] = set()

    async def start(self) -> None:
        """Listen, and dial the others in the background; OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        ip, port = self._own.control
        self._server = await loop.create_server(self._accept, ip, port)
        self._tasks = [loop.create_task(self._keep(server)) for server in self._others]

    def _accept(self) -> ControlConnection:
        connection = ControlConnection("accepted", self._on_frame)
        self._accepted.add(connection)
        connection.closed.add_done_callback(lambda _: self._accepted.discard(connection))
        return connection

    async def _keep(self, server: Server) -> None:
        loop = asyncio.get_running_loop()
        ip, port = server.control
        own, pause = (self._own.control.ip, 0), REDIAL_FIRST
        while True:
            try:
                _, connection = await loop.create_connection(
                    lambda: ControlConnection(server.name, self._on_frame), ip, port, local_addr=own
                )
            except OSError:
                await asyncio.sleep(pause)
                pause = min(2 * pause, REDIAL_LAST)
                continue
            pause = REDIAL_FIRST
            self._dialled[server.service] = connection
            await connection.closed

    def to(self, server: Endpoint) -> ControlConnection | None:
        """The open connection to the agent of the server with this service address."""
        connection = self._dialled.get(server.ip)
        return connection if connection and connection.is_open else None

    def status(self) -> dict[str, bool]:
        """Server name -> whether its agent is connected."""
        return {s.name: bool((c := self._dialled.get(s.service)) and c.is_open) for s in self._others}

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._server is not None:
            self._server.close()
        for connection in (*self._dialled.values(), *self._accepted):
            connection.close()
