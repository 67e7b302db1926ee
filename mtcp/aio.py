"""The asyncio twin of `mtcp.api`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

from mtcp import api, listening
from mtcp.api import Imported
from mtcp.errors import Fenced

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

    def recv_nowait(self, n: int) -> bytes:
        """BlockingIOError when there is nothing, or a move is under way."""
        return self._connection.recv(n)

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

    async def splice(self, pipe: int, count: int) -> None:
        """Write the next `count` bytes of a pipe, which has as many, without copying."""
        while count:
            rest = count
            count -= await self._until_done(lambda: self._connection.splice(pipe, rest), for_output=True)  # noqa: B023

    async def shutdown(self, how: int) -> None:
        await self._until_done(lambda: self._connection.shutdown(how), for_output=True)

    def fileno(self) -> int:
        return self._connection.fileno()

    def getpeername(self) -> tuple[str, int]:
        return self._connection.getpeername()

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self._connection.setsockopt(level, option, value)

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


async def readable(*fds: int) -> int:
    """Wait until one of the descriptors is; which."""
    loop = asyncio.get_running_loop()
    return await _one_of(fds, loop.add_reader, loop.remove_reader)


async def _ready(fd: int, *, for_output: bool) -> None:
    loop = asyncio.get_running_loop()
    add, remove = (loop.add_writer, loop.remove_writer) if for_output else (loop.add_reader, loop.remove_reader)
    await _one_of((fd,), add, remove)


async def _one_of(fds: Sequence[int], add: Callable[..., None], remove: Callable[[int], object]) -> int:
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for fd in fds:
        add(fd, _resolve, ready, fd)
    try:
        return await ready
    finally:
        for fd in fds:
            remove(fd)


def _resolve(future: asyncio.Future[int], fd: int) -> None:
    if not future.done():
        future.set_result(fd)
