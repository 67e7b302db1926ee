"""The old server's role: it gives the connection away, and is fenced until it knows what became of it."""

from __future__ import annotations

from typing import Any, Protocol

from mtcp import keys
from mtcp.address import FourTuple
from mtcp.errors import Reason, RemoteProtocolError
from mtcp.roles.machine import Machine
from mtcp.snapshot import Refused, StateReply
from mtcp.states import OLD_SERVER, OldServer, OldServerEvent
from mtcp.wire.frames import Done, DoneAck, Frame, StateReject, StateReplyFrame, StateRequest
from mtcp.wire.options import Abort, AbortAck, AnyOption, is_authentic, migrate_mac


class OldServerPort(Protocol):
    """What the old server's role needs of its host. `peer` is the driver's own name for a control connection."""

    def fence_and_dump(self, client_rcv_nxt: int, attempt: int) -> StateReply:
        """Stop the application's access and read the kernel's state; Refused says why it cannot go."""

    def resume(self) -> None:
        """Undo fence_and_dump: the application goes on."""

    def close_silently(self) -> None:
        """Destroy the socket without a segment; the application gets ConnectionMigrated."""

    def send_frame(self, peer: Any, frame: Frame) -> None:
        """To the new server."""

    def send(self, option: AnyOption) -> None:
        """A control segment to the client."""


class OldServerRole(Machine):
    """One connection at a server that has it. `four_tuple` as this server sees it."""

    table = OLD_SERVER

    def __init__(self, four_tuple: FourTuple, key: bytes, attempt: int, port: OldServerPort) -> None:
        """`attempt` is the last one that is known to have been used."""
        super().__init__(OldServer.ESTABLISHED)
        self.four_tuple = four_tuple
        self.key = key
        self.attempt = attempt
        self._request: StateRequest | None = None
        self._reply: StateReplyFrame | None = None
        self._peer: Any = None
        self._asking: tuple[Any, int] = (None, 0)
        self._reason = Reason.INVALID_STATE
        self._abort_attempt = 0
        self._port = port

    def on_request(self, request: StateRequest, peer: Any, now: float) -> None:
        """A State request from the control connection `peer`."""
        self._asking = peer, request.attempt
        problem = self._problem(request)
        if problem is not None:
            self._reason = problem
            self.fire(OldServerEvent.BAD_REQUEST, now)
        elif request == self._request and self.state is OldServer.FENCED:
            self._peer = peer
            self.fire(OldServerEvent.REPEATED_REQUEST, now)
        else:
            self._request, self._peer, self.attempt = request, peer, request.attempt
            self.fire(OldServerEvent.STATE_REQUEST, now)

    def _problem(self, request: StateRequest) -> Reason | None:
        wanted = migrate_mac(self.key, request.old, request.new.local, request.rcv_nxt, request.attempt)
        if not keys.matches(wanted, request.mac):
            return Reason.BAD_MAC
        if self.state is OldServer.MIGRATED:
            return Reason.UNKNOWN_CONNECTION
        if self.state is OldServer.FENCED:
            return None if request == self._request else Reason.BUSY
        return Reason.STALE_ATTEMPT if request.attempt <= self.attempt else None

    def on_done(self, done: Done, peer: Any, now: float) -> None:
        """The new server says that the client has committed."""
        if done.attempt != self.attempt:
            raise RemoteProtocolError(f"DONE of attempt {done.attempt}, at {self.attempt}; dropped")
        self._peer = peer
        self.fire(OldServerEvent.DONE, now)

    def came_back(self, now: float) -> None:
        """Another server gives the connection back: the client had committed to it, whether DONE arrived or not."""
        self.fire(OldServerEvent.DONE, now)

    def on_option(self, option: AnyOption, now: float) -> None:
        """A control segment from the client."""
        if not isinstance(option, Abort):
            raise RemoteProtocolError(f"{option.subtype.name} is not for the server that has the connection; dropped")
        if not is_authentic(option, self.key):
            raise RemoteProtocolError("ABORT with a wrong MAC; dropped")
        self._abort_attempt = option.attempt
        if option.attempt >= self.attempt:
            self.attempt = option.attempt
            self.fire(OldServerEvent.ABORT, now)
        else:
            self.fire(OldServerEvent.STALE_ABORT, now)

    def closed(self, now: float) -> None:
        """The application has closed the connection, or it has ended."""
        self.fire(OldServerEvent.CLOSED, now)

    def fence_and_dump(self, now: float) -> None:
        assert self._request is not None
        try:
            reply = self._port.fence_and_dump(self._request.rcv_nxt, self._request.attempt)
        except Refused as refused:
            self._reply, self._reason = None, refused.reason
            self.fire(OldServerEvent.DUMP_FAILED, now)
        else:
            self._reply = StateReplyFrame(self._request.old, reply)

    def send_state_reply(self, now: float) -> None:
        if self._reply is not None:
            self._port.send_frame(self._peer, self._reply)

    def send_state_reject(self, now: float) -> None:
        peer, attempt = self._asking
        self._port.send_frame(peer, StateReject(self.four_tuple, attempt, self._reason))

    def resume(self, now: float) -> None:
        self._request = self._reply = None
        self._port.resume()

    def close_silently(self, now: float) -> None:
        self._reply = None
        self._port.close_silently()

    def send_done_ack(self, now: float) -> None:
        self._port.send_frame(self._peer, DoneAck(self.four_tuple, self.attempt))

    def send_abort_ack(self, now: float) -> None:
        self._port.send(AbortAck(self._abort_attempt).signed(self.key))
