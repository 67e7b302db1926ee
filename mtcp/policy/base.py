"""What a policy is told, and what it may answer.

Policies are pure: they have no clock, ask nobody, and know only what they were shown. So a recorded connection can be
shown to them again, and an application may use them as an agent does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from mtcp.address import Endpoint
from mtcp.wire.options import Hint


@dataclass(frozen=True)
class Known:
    """What is known of a server, beside the connection."""

    rtt: float | None = None
    """Smoothed round-trip time of probes, seconds; infinite when they are not answered; None: was not probed."""
    load: float | None = None
    """0: idle, 1: as much as it can do, by its own word; None: it has said nothing lately."""


@dataclass(frozen=True)
class View:
    """A connection, as whoever asks the policy (the client's agent, or an application) sees it now.

    What has a default may be unknown: None. Some of it costs system calls, and is there for policies that want it.
    """

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
    room: float | None = None
    """The receive window that the client offers, as a share of its widest so far: near 0, it is the slow one itself."""
    waiting: bool | None = None
    """Whether the application waits for data. Only an application itself knows always."""
    asked_at: float | None = None
    """When the client sent data last, again or for the first time; seconds on the same clock."""
    heard_at: float | None = None
    """When data came to it last."""
    srtt: float | None = None
    """The kernel's smoothed round-trip time of the connection, seconds. At a receiver: of its last requests."""
    receive_rtt: float | None = None
    """The same as a receiver of data finds it, with the time for which the server had nothing to send."""
    min_rtt: float | None = None
    """The lowest, seconds."""
    segments_received: int | None = None
    """Segments with data, since the connection began, as all counts here."""
    segments_sent: int | None = None
    """Likewise; those that were sent again count twice."""
    out_of_order: int | None = None
    """Segments received out of order: as a rule, some before them was lost."""
    retransmitted: int | None = None
    """Segments sent again."""
    servers: Mapping[Endpoint, Known] = field(default_factory=dict)
    """What is known of the current server and of others."""

    def known(self, server: Endpoint) -> Known:
        """What is known of `server`, perhaps nothing."""
        return self.servers.get(server, _NOTHING)


_NOTHING = Known()


class Policy:
    """Never moves anything: the base of those that do."""

    interval: float | None = None
    """Seconds between calls of `observe`; None: never."""
    wants_kernel: ClassVar[bool] = False
    """Whether it needs what the kernel knows of the socket (mtcp.policy.kernel): a system call a view."""
    wants_probes: ClassVar[bool] = False
    """Whether it needs round-trip times of servers (Known.rtt)."""

    def observe(self, view: View) -> Endpoint | None:
        """Where to go now, or None to stay."""
        return None

    def hinted(self, view: View, hint: Hint) -> Endpoint | None:
        """The current server asks to be left: where to go, or None to stay."""
        return None
