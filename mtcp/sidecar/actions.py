"""What a session asks its driver to do, and what that comes to."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

from mtcp.sidecar.state import State


@dataclass(frozen=True)
class Read:
    """Wait for bytes, of the client or the server; comes to Received."""

    client: bool
    upstream: bool


@dataclass(frozen=True)
class Write:
    """Send to the client."""

    data: bytes


@dataclass(frozen=True)
class Forward:
    """Send to the server. If it takes no more, what it says, or its end, is to be read."""

    data: bytes


@dataclass(frozen=True)
class Connect:
    """Connect to the server, after a pause in seconds; whether that worked. An older connection to it ends."""

    pause: float = 0.0


@dataclass(frozen=True)
class Relay:
    """Send so many bytes from the server to the client; how many there were."""

    count: int


@dataclass(frozen=True)
class Export:
    """From here on another instance can go on with this state."""

    state: State
    hold: bool = False
    """Only if this one dies: until the next export the connection stays here."""


@dataclass(frozen=True)
class Discard:
    """How many of the next so many bytes the client has already; they count as sent."""

    count: int


@dataclass(frozen=True)
class End:
    """The last action. With a `complaint` at once, and in the log; else when the client has got everything."""

    complaint: str = ""


Action = Read | Write | Forward | Connect | Relay | Export | Discard | End
Steps = Generator[Action, Any, Any]
"""Of actions; what it returns depends on what it is for."""


class Received(NamedTuple):
    """What `Read` comes to."""

    from_client: bool
    data: bytes
    """Empty: its end, or too long a silence."""
