"""Sockets for sessions: accepts M-TCP connections and does what their sessions ask for."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from mtcp import aio, api
from mtcp.address import Endpoint
from mtcp.errors import RemoteProtocolError
from mtcp.sidecar.actions import (
    Action,
    Connect,
    Discard,
    End,
    Export,
    Forward,
    Read,
    Received,
    Relay,
    Write,
)
from mtcp.sidecar.session import Session
from mtcp.sidecar.state import State

PIECE = 1 << 16
"""Bytes read at once of heads, and of bodies that are not relayed."""
PIPE = 1 << 20
"""Bytes at once of bodies that are relayed. They are moved through a pipe, and nobody looks at them."""
UNABLE = 0.1
"""Seconds until another client is looked for when there are too many files open, say."""
CONNECTING = 5.0
"""Seconds for the server, on this host, to take a connection."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Of all connections."""

    upstream: Endpoint
    idle: float = 75.0
    """Seconds for which a client may be silent; and, once it has been sent everything, may take to end."""
    answer: float = 60.0
    """Seconds for which the server may be silent."""


class Serving:
    """One client's connection. A context manager, which closes everything."""

    def __init__(self, connection: aio.Connection, settings: Settings) -> None:
        self._client, self._settings = connection, settings
        self._upstream: socket.socket | None = None
        self._loop = asyncio.get_running_loop()
        self._pipe: tuple[int, int] | None = None
        """What comes from the server is in it on its way to the client; when the connection moves, it is lost."""

    async def run(self) -> None:
        """To its end, here. ConnectionError when the client has gone, or the connection to another server."""
        peer, where = self._client.getpeername(), str(self._settings.upstream)
        imported = self._client.import_state()
        steps = Session(peer[0], where).run(State.decode(imported.state) if imported and imported.state else None)
        action = next(steps)
        while not isinstance(action, End):
            action = steps.send(await self._do(action))
        if action.complaint:
            log.warning("%s:%d: %s", *peer, action.complaint)
            self._reset()
        else:
            await self._finish()

    async def _do(self, action: Action) -> Any:
        match action:
            case Write(data):
                await self._client.sendall(data)
            case Relay(count):
                return await self._relay(count)
            case Read(client, upstream):
                return await self._read(client, upstream)
            case Forward(data):
                assert self._upstream is not None
                with contextlib.suppress(OSError):
                    await self._loop.sock_sendall(self._upstream, data)
            case Export(state, hold):
                await self._client.export_state(state.encode(), hold)
            case Connect(pause):
                await asyncio.sleep(pause)
                return await self._connect()
            case Discard(count):
                return self._client.discard(count)

    async def _connect(self) -> bool:
        self._drop()
        host, port = self._settings.upstream
        self._upstream = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._upstream.setblocking(False)
        self._upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.timeout(CONNECTING):
                await self._loop.sock_connect(self._upstream, (host, port))
        except OSError:
            return False
        return True

    async def _read(self, client: bool, upstream: bool) -> Received:
        if client:
            async with asyncio.timeout(self._settings.idle):
                return await self._read_either() if upstream else Received(True, await self._client.recv(PIECE))
        return await self._read_upstream()

    async def _read_either(self) -> Received:
        assert self._upstream is not None
        upstream = self._upstream.fileno()
        while await aio.readable(self._client.fileno(), upstream) != upstream:
            try:
                return Received(True, self._client.recv_nowait(PIECE))
            except BlockingIOError:
                # Somebody tries to move the connection: a frozen socket may seem readable.
                await asyncio.sleep(api.FENCED_POLL)
        return await self._read_upstream()

    async def _read_upstream(self) -> Received:
        assert self._upstream is not None
        try:
            async with asyncio.timeout(self._settings.answer):
                return Received(False, await self._loop.sock_recv(self._upstream, PIECE))
        except OSError:
            return Received(False, b"")

    async def _relay(self, count: int) -> int:
        self._pipe = self._pipe or _pipe()
        left = count
        while left:
            n = await self._into_pipe(self._pipe[1], min(left, PIPE))
            if not n:
                break
            await self._client.splice(self._pipe[0], n)
            left -= n
        return count - left

    async def _into_pipe(self, pipe: int, most: int) -> int:
        """Move what the server has sent; 0: it has ended, or been silent for too long."""
        assert self._upstream is not None
        while True:
            try:
                return os.splice(self._upstream.fileno(), pipe, most)
            except BlockingIOError:
                if not await self._wait_for_upstream():
                    return 0
            except OSError:
                return 0

    async def _wait_for_upstream(self) -> bool:
        assert self._upstream is not None
        try:
            async with asyncio.timeout(self._settings.answer):
                await aio.readable(self._upstream.fileno())
        except TimeoutError:
            return False
        return True

    async def _finish(self) -> None:
        """End our stream, and wait until the client has ended its own: until then the connection can move."""
        await self._client.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(self._settings.idle):
            while await self._client.recv(PIECE):
                pass

    def _reset(self) -> None:
        """Have the connection end by a reset when it is closed.

        In a response an end of the stream would not do: the client may have more of it than this server has sent, and
        then ignores that as one of the past; and of a response without a length it would be the end.
        """
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))

    def _drop(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._drop()
        for fd in self._pipe or ():
            os.close(fd)
        if isinstance(e, Exception) and not isinstance(e, OSError):
            self._reset()
        self._client.close()


def _pipe() -> tuple[int, int]:
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.suppress(PermissionError):  # there are many; then it is slower
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE)
    return pipe


async def serve(connection: aio.Connection, settings: Settings) -> None:
    """One client, from wherever it is, to its end here; never raises."""
    peer = connection.getpeername()
    try:
        with Serving(connection, settings) as serving:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await serving.run()
    except RemoteProtocolError as error:
        log.warning("%s:%d: %s", *peer, error)
    except OSError:
        pass  # the client has gone, or the connection to another server, or nobody has said anything for too long
    except Exception:
        log.exception("%s:%d", *peer)


async def serve_forever(listener: aio.Listener, settings: Settings) -> None:
    """Serve whoever comes."""
    async with asyncio.TaskGroup() as serving:
        while True:
            try:
                serving.create_task(serve(await listener.accept(), settings))
            except OSError as error:
                log.warning("cannot accept: %s", error.strerror)
                await asyncio.sleep(UNABLE)
