"""The asyncio twin of `mtcp.api`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

from mtcp import api, listening
from mtcp.api import Fenced, Imported

_T = TypeVar("_T")


class Connection:
    """As `mtcp.api.Connection`, with coroutines for what may wait."""

    def __init__(self, connection: api.Connection) -> None:
        connection.setblocking(False)
        self._connection = connection

    @property
    def migratable(self) -> bool:
        return self._connection.migratable

    def import_state(self) -> Imported | None:
        return self._connection.import_state()

    def discard(self, limit: int) -> int:
        return self._connection.discard(limit)

    async def export_state(self, state: bytes, hold: bool = False) -> None:
        """As of api.Connection; waits only while a move is under way."""
        await self._until_done(lambda: self._connection.export_state(state, hold), for_output=True)

    async def recv(self, n: int) -> bytes:
        return await self._until_done(lambda: self._connection.recv(n), for_output=False)

    async def sendall(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            rest = view
            view = view[await self._until_done(lambda: self._connection.send(rest), for_output=True) :]  # noqa: B023

    async def sendfile(self, file: BinaryIO, offset: int, count: int) -> None:
        """In pieces, so that other tasks have their turns."""
        end = offset + count
        while offset < end:
            piece = min(end - offset, 1 << 18)
            skipped = self._connection.discard(end - offset)
            if not skipped:
                file.seek(offset)
                data = file.read(piece)
                if len(data) < piece:
                    raise ValueError(f"{file.name!r} ended {end - offset - len(data)} bytes early")
                await self.sendall(data)
            offset += skipped or piece

    async def shutdown(self, how: int) -> None:
        await self._until_done(lambda: self._connection.shutdown(how), for_output=True)

    def getpeername(self) -> tuple[str, int]:
        return self._connection.getpeername()

    def close(self) -> None:
        self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    async def _until_done(self, operation: Callable[[], _T], *, for_output: bool) -> _T:
        pause = api.FENCED_FIRST
        while True:
            try:
                return operation()
            except Fenced:
                # A frozen socket stays readable and writable: waiting for that would spin.
                await asyncio.sleep(pause)
                pause = min(2 * pause, api.FENCED_POLL)
            except BlockingIOError:
                await _ready(self._connection.fileno(), for_output=for_output)


class Listener:
    """As `mtcp.Listener`."""

    def __init__(self, listener: listening.Listener) -> None:
        self._listener = listener

    async def accept(self) -> Connection:
        while True:
            try:
                return Connection(self._listener.accept_nowait())
            except BlockingIOError:
                await _ready(self._listener.fileno(), for_output=False)

    def close(self) -> None:
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def listen(address: tuple[str, int], **settings: Any) -> Listener:
    """As `mtcp.listen`, with the same settings."""
    return Listener(listening.listen(address, **settings))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _ready(fd: int, *, for_output: bool) -> None:
    loop = asyncio.get_running_loop()
    add, remove = (loop.add_writer, loop.remove_writer) if for_output else (loop.add_reader, loop.remove_reader)
    ready: asyncio.Future[None] = loop.create_future()
    add(fd, _resolve, ready)
    try:
        await ready
    finally:
        remove(fd)
