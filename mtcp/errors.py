"""What can go wrong, by whose fault (the division is h11's)."""

from __future__ import annotations

import errno
from enum import IntEnum


class MtcpError(Exception):
    """Base of all errors of this package; the text is one line that says what to do."""


class LocalProtocolError(MtcpError):
    """This side asked for something that the protocol does not allow in the present state."""


class RemoteProtocolError(MtcpError):
    """The other side sent something malformed, forged or out of order."""


class NotMigratable(MtcpError):
    """This connection cannot move; the text says why."""


class ConnectionMigrated(ConnectionError):
    """The connection has moved to another server: this application no longer owns it (SS_MIGRATED)."""


class Fenced(BlockingIOError):
    """A move is under way: what a non-blocking call gets until its outcome is known (EAGAIN)."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, "the connection is being moved")


class Reason(IntEnum):
    """Why a server refuses to hand over a connection (State reject)."""

    UNKNOWN_CONNECTION = 1
    INVALID_STATE = 2
    BAD_MAC = 3
    STALE_ATTEMPT = 4
    AHEAD = 5
    BUSY = 6
    LOG_OVERFLOW = 7
    UNSUPPORTED_VERSION = 8
    TOO_LARGE = 9
    UNREACHABLE = 10
    """The new server cannot reach the old one's agent (not in the papers)."""
    RESTORE_FAILED = 11
    """The new server's kernel refused the state (not in the papers)."""
    NO_APPLICATION = 12
    """No application of the new server listens on the connection's port (not in the papers)."""
    NOT_ALLOWED = 13
    """A server asks for another server's move (not in the papers)."""
    DRAINING = 14
    """The new server is being drained itself (not in the papers)."""
    HELD = 15
    """The application has exported a state with `hold` (not in the papers)."""

    @property
    def advice(self) -> str:
        """One line for people: what the reason means and what to do."""
        return _ADVICE[self]


_ADVICE = {
    Reason.UNKNOWN_CONNECTION: "the old server does not know this connection as migratable; "
    "is its application running on the mtcp API, and has it accepted the connection?",
    Reason.INVALID_STATE: "the connection is not established there (closing, or half closed); wait, or let it end",
    Reason.BAD_MAC: "the request was not signed with the connection's key; somebody else may be trying to move it",
    Reason.STALE_ATTEMPT: "a later attempt is known already; try again",
    Reason.AHEAD: "the client claims bytes that the old server never sent; the two disagree about the stream",
    Reason.BUSY: "another move of this connection is under way; wait for its end and try again",
    Reason.LOG_OVERFLOW: "the application has read more than its read log holds since its last export_state; "
    "export more often, or listen with a larger log",
    Reason.UNSUPPORTED_VERSION: "the two servers run protocol versions that do not match; upgrade the older one",
    Reason.TOO_LARGE: "the state is larger than the new server takes; raise its bound or export less",
    Reason.UNREACHABLE: "the new server cannot reach the old server's agent on the control network; "
    "check `mtcp status` on both",
    Reason.RESTORE_FAILED: "the new server's kernel refused the connection's state; see its agent's log",
    Reason.NO_APPLICATION: "no application of the new server listens on this port with mtcp.listen; start it there",
    Reason.NOT_ALLOWED: "a server may ask only for connections that move to its own service address; "
    "have all servers the same pool file?",
    Reason.DRAINING: "the new server is being drained; choose another one, or wait until its `mtcp drain` has ended",
    Reason.HELD: "the application holds the connection, for what it does now cannot move; try again later",
}
