"""What a session asks of whoever drives it: the only way in which it touches the world."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class Receive:
    """Wait for the client or the backend: ("client" or "backend", bytes); b"" when that stream has ended."""


@dataclass(frozen=True)
class Answer:
    """Wait for the backend: bytes; b"" when it has gone."""


@dataclass(frozen=True)
class Ask:
    """Send to the backend."""

    data: bytes


@dataclass(frozen=True)
class Connect:
    """Open a connection to the database and send this; whether that was possible."""

    startup: bytes


@dataclass(frozen=True)
class Export:
    """From here on another server can go on with the state that `dump` gives; `hold`: only if this one dies."""

    dump: Callable[[], bytes]
    hold: bool


@dataclass(frozen=True)
class Send:
    """Send to the client."""

    data: bytes


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Register:
    """The client's key stands for the backend's."""

    key: tuple[int, int]
    backend: tuple[int, int]


@dataclass(frozen=True)
class Cancel:
    """Cancel what runs under the client's key; `forwarded`: the other front-ends know."""

    key: tuple[int, int]
    forwarded: bool


Effect = Receive | Answer | Ask | Connect | Export | Send | Sleep | Register | Cancel
Steps = Generator[Effect, Any, _T]
