"""What a policy is told, and what it may answer."""

from __future__ import annotations

from dataclasses import dataclass

from mtcp.address import Endpoint
from mtcp.wire.options import Hint


@dataclass(frozen=True)
class View:
    """A connection, as the client's agent sees it now."""

    now: float
    """Seconds on a monotonic clock."""
    current: Endpoint
    """The server that has it."""
    others: tuple[Endpoint, ...]
    """Those to which it may go."""
    received: int
    """Bytes of the server's stream that the client has acknowledged, from some origin on."""
    sent: int
    """Bytes of its own stream that the client has sent, likewise."""


class Policy:
    """Never moves anything: the base of those that do."""

    interval: float | None = None
    """Seconds between calls of `observe`; None: never."""

    def observe(self, view: View) -> Endpoint | None:
        """Where to go now, or None to stay."""
        return None

    def hinted(self, view: View, hint: Hint) -> Endpoint | None:
        """The current server asks to be left: where to go, or None to stay."""
        return None
