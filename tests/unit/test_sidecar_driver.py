"""How the sidecar's connections end when it cannot go on."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest

from mtcp import aio
from mtcp.address import Endpoint
from mtcp.api import Imported
from mtcp.sidecar.driver import Settings, serve

pytestmark = pytest.mark.unit

RESET = (socket.SO_LINGER, struct.pack("=ii", 1, 0))


class Taken:
    """A connection that another server had; `state`: what its application left, or raises."""

    def __init__(self, state: Callable[[], bytes]) -> None:
        self._state = state
        self.done: list[Any] = []

    def getpeername(self) -> tuple[str, int]:
        return "10.0.0.100", 50000

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        if level == socket.SOL_SOCKET:
            self.done.append((option, value))

    def import_state(self) -> Imported:
        return Imported(self._state(), 0)

    def close(self) -> None:
        self.done.append("closed")


def alien() -> bytes:
    return b"not ours"


def broken() -> bytes:
    raise ValueError("a mistake of the sidecar's own")


def gone() -> bytes:
    raise ConnectionResetError


@pytest.mark.parametrize(("state", "done"), [(alien, [RESET]), (broken, [RESET]), (gone, [])])
def test_a_connection_with_which_nobody_can_go_on_is_reset(state: Callable[[], bytes], done: list[Any]) -> None:
    """An end of the stream could be taken for that of a response."""
    connection = Taken(state)
    asyncio.run(serve(cast(aio.Connection, connection), Settings(Endpoint("127.0.0.1", 8000))))
    assert connection.done == [*done, "closed"]
