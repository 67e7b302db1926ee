"""The old server's role: it gives the connection away, and is fenced until it knows what became of it."""

from __future__ import annotations

from typing import Protocol

from mtcp import keys
from mtcp.address import Endpoint, FourTuple
from mtcp.errors import Reason, RemoteProtocolError
from mtcp.roles.machine import Machine
from mtcp.snapshot import Refused, StateReply
from mtcp.states import OLD_SERVER, OldServer, OldServerEvent
from mtcp.wire.frames import Done, DoneAck, Frame, Query, Release, StateReject, StateReplyFrame, StateRequest
from mtcp.wire.options import Abort, AbortAck, AnyOption, Refusal, is_authentic, migrate_mac
from mtcp.wire.options import Query as QueryOption


class OldServerPort(Protocol):
    """What the old server's role needs of its host."""

    def fence_and_dump(self, client_rcv_nxt: int, attempt: int) -> StateReply:
        """Stop the application's access and read the kernel's state; Refused says why it cannot go."""

    def resume(self) -> None:
        """Undo fence_and_dump: the application goes on."""

    def close_silently(self) -> None:
        """Destroy the socket without a segment; the application gets ConnectionMigrated."""

    def send_frame(self, server: Endpoint, frame: Frame) -> None:
        """To the agent of `server`, if that can be reached."""

    def send(self, option: AnyOption) -> None:
        """A control segment to the client."""


class OldServerRole(Machine):
    """One connection at a server that has it. `four_tuple` as this server sees it."""

    table = OLD_SERVER
    retry_event = OldServerEvent.RETRY
    give_up_event = OldServerEvent.GIVE_UP

    def __init__(self, four_tuple: FourTuple, key: bytes, attempt: int, port: OldServerPort) -> None:
        """`attempt` is the last one that is known to have been used."""
        super().__init__(OldServer.ESTABLISHED)
        self.four_tuple = four_tuple
        self.key = key
        self.attempt = attempt
        self.new_server: Endpoint | None = None
        """Who was last given the connection."""
        self.tag = bytes(keys.MAC_LENGTH)
        """The MAC of that server's request."""
        self._recovered = False
        """Whether it is fenced by an agent that has ended."""
        self._request: StateRequest | None = None
        self._reply: StateReplyFrame | None = None
        self._asking: StateRequest | None = None
        self.refused: Reason | None = None
        """Why the last request was turned down; None when it was not."""
        self._abort_attempt = 0
        self._port = port

    def recover(self, new_server: Endpoint, tag: bytes, now: float) -> None:
        """Go on for an agent that ended while the connection was fenced for `new_server`, by its request's MAC."""
        self.new_server, self.tag = new_server, tag
        self._recovered = True
        self.fire(OldServerEvent.RECOVERED, now)

    def on_request(self, request: StateRequest, now: float) -> None:
        """A State request."""
        self._asking = request
        self.refused = self._problem(request)
        if self.refused is not None:
            self.fire(OldServerEvent.BAD_REQUEST, now)
        elif request == self._request and self.state is OldServer.FENCED:
            self.fire(OldServerEvent.REPEATED_REQUEST, now)
        elif self._is_recovered(request):
            self._request = request
            self.fire(OldServerEvent.RENEWED_REQUEST, now)
        else:
            again = self.state is OldServer.FENCED
            self._request, self.attempt = request, request.attempt
            self.new_server, self.tag = request.new.local, request.mac
            self.fire(OldServerEvent.LATER_REQUEST if again else OldServerEvent.STATE_REQUEST, now)

    def _is_recovered(self, request: StateRequest) -> bool:
        """Whether it is for `request` that an agent which has ended fenced the connection."""
        asked = (request.new.local, request.attempt, request.mac) == (self.new_server, self.attempt, self.tag)
        return self._recovered and self.state is OldServer.FENCED and asked

    def _problem(self, request: StateRequest) -> Reason | None:
        wanted = migrate_mac(self.key, request.old, request.new.local, request.rcv_nxt, request.attempt)
        if not keys.matches(wanted, request.mac):
            return Reason.BAD_MAC
        if self.state in (OldServer.MIGRATED, OldServer.CLOSED):
            return Reason.UNKNOWN_CONNECTION
        if request.attempt > self.attempt or (self.state is OldServer.FENCED and request == self._request):
            return None
        if self._is_recovered(request):
            return None
        return Reason.BUSY if self.state is OldServer.FENCED else Reason.STALE_ATTEMPT

    def on_outcome(self, frame: Done | Release, now: float) -> None:
        """What the new server says of the attempt."""
        if (frame.attempt, frame.tag) != (self.attempt, self.tag):
            raise RemoteProtocolError(f"{frame.type.name} of attempt {frame.attempt}, at {self.attempt}; dropped")
        if isinstance(frame, Done):
            self.fire(OldServerEvent.DONE, now)
        elif keys.matches(Abort(frame.attempt).signed(self.key).mac, frame.proof):
            self.fire(OldServerEvent.RELEASE, now)
        else:
            raise RemoteProtocolError("RELEASE without the client's word; dropped")

    def came_back(self, attempt: int, now: float) -> None:
        """Another server gives the connection back, by `attempt`.

        An earlier one than this role's is no return: a late repetition, asked for by an agent that has begun anew.
        """
        if attempt > self.attempt:
            self.fire(OldServerEvent.CAME_BACK, now)

    def on_option(self, option: AnyOption, now: float) -> None:
        """A control segment from the client."""
        if not isinstance(option, Abort | Refusal):
            raise RemoteProtocolError(f"{option.subtype.name} is not for the server that has the connection; dropped")
        if not is_authentic(option, self.key):
            raise RemoteProtocolError(f"{option.subtype.name} with a wrong MAC; dropped")
        if isinstance(option, Refusal):
            if option.attempt != self.attempt:
                raise RemoteProtocolError(f"REFUSAL of attempt {option.attempt}, at {self.attempt}; dropped")
            self.fire(OldServerEvent.REFUSAL, now)
            return
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
            self._reply, self.refused = None, refused.reason
            renewed = self._recovered
            self.fire(OldServerEvent.RENEWED_DUMP_FAILED if renewed else OldServerEvent.DUMP_FAILED, now)
        else:
            self._reply = StateReplyFrame(self._request.old, self._request.mac, reply)

    def send_state_reply(self, now: float) -> None:
        if self._reply is not None and self._request is not None:
            self._port.send_frame(self._request.new.local, self._reply)

    def send_state_reject(self, now: float) -> None:
        asking = self._asking
        assert asking is not None and self.refused is not None
        self._port.send_frame(asking.new.local, StateReject(self.four_tuple, asking.attempt, asking.mac, self.refused))

    def resume(self, now: float) -> None:
        self._reply, self._recovered = None, False
        self._port.resume()

    def close_silently(self, now: float) -> None:
        self._reply = None
        self._port.close_silently()

    def send_done_ack(self, now: float) -> None:
        assert self.new_server is not None
        self._port.send_frame(self.new_server, DoneAck(self.four_tuple, self.attempt, self.tag))

    def send_abort_ack(self, now: float) -> None:
        self._port.send(AbortAck(self._abort_attempt).signed(self.key))

    def send_query(self, now: float) -> None:
        assert self.new_server is not None
        self._port.send(QueryOption(self.attempt).signed(self.key))
        self._port.send_frame(self.new_server, Query(self.four_tuple, self.attempt, self.tag))
