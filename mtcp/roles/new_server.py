"""The new server's role: it fetches the connection from the old server and goes on with it."""

from __future__ import annotations

from typing import Protocol

from mtcp.address import Endpoint, FourTuple
from mtcp.errors import Reason, RemoteProtocolError
from mtcp.roles.machine import Machine
from mtcp.snapshot import StateReply
from mtcp.states import NEW_SERVER, NewServer, NewServerEvent
from mtcp.wire.frames import Done, DoneAck, Frame, Query, Release, StateReject, StateReplyFrame, StateRequest
from mtcp.wire.options import Accept, Ack3, AnyOption, Migrate, Refusal, Reject, is_authentic


class NewServerPort(Protocol):
    """What the new server's role needs of its host."""

    def unwilling(self) -> Reason | None:
        """Why this server takes no connection of this kind now; None when it does."""

    def send_frame(self, server: Endpoint, frame: Frame) -> bool:
        """To the agent of `server`; False when there is no control connection to it."""

    def restore(self, reply: StateReply, client_rcv_nxt: int, client_window: int) -> None:
        """Build the kernel's socket and give it to the application; OSError when that cannot be done."""

    def send(self, option: AnyOption) -> None:
        """A control segment to the client; an ACCEPT is followed by a segment that the client's kernel is to see."""

    def discard(self) -> None:
        """Destroy the restored socket without a segment."""


class NewServerRole(Machine):
    """One attempt of a client to move to this server; `four_tuple` as this server sees it."""

    table = NEW_SERVER
    retry_event = NewServerEvent.RETRY
    give_up_event = NewServerEvent.GIVE_UP
    patience = 10.0

    def __init__(self, four_tuple: FourTuple, migrate: Migrate, client_window: int, port: NewServerPort) -> None:
        """`client_window` is the raw window field of the client's SYN."""
        super().__init__(NewServer.LISTEN)
        self.four_tuple = four_tuple
        self.attempt = migrate.attempt
        self.tag = migrate.mac
        """By it this attempt is told from forged ones."""
        self.old = FourTuple(migrate.old_server, four_tuple.remote)
        self.key: bytes | None = None
        """The connection's; None until the old server has told it."""
        self.reply: StateReply | None = None
        self._migrate = migrate
        self._client_window = client_window
        self._abort: bytes | None = None
        """The MAC of the client's ABORT for the old server."""
        self._reason = Reason.UNREACHABLE
        self._port = port

    def recover(self, key: bytes, now: float) -> None:
        """Go on for an agent that ended with the connection restored, and the client not known to have committed."""
        self.key = key
        self.fire(NewServerEvent.RECOVERED, now)

    def on_migrate_syn(self, now: float) -> None:
        """The client's SYN, or a repetition of it."""
        unwilling = self._port.unwilling() if self.state is NewServer.LISTEN else None
        if unwilling is not None:
            self._reason = unwilling
            self.fire(NewServerEvent.UNWILLING, now)
        else:
            self.fire(NewServerEvent.MIGRATE_SYN, now)

    def on_frame(self, frame: StateReplyFrame | StateReject | DoneAck | Query, now: float) -> None:
        """A frame of the old server's agent with this attempt's tag."""
        match frame:
            case StateReplyFrame(reply=reply):
                self.reply = self.reply or reply
                self.key = self.reply.key
                self.fire(NewServerEvent.STATE_REPLY, now)
            case StateReject(reason=reason):
                if self.state is NewServer.REQUESTED:
                    self._reason = reason
                self.fire(NewServerEvent.STATE_REJECT, now)
            case DoneAck():
                self.fire(NewServerEvent.DONE_ACK, now)
            case _:
                self.fire(NewServerEvent.QUERY, now)

    def superseded(self, now: float) -> None:
        """The old server has answered a later attempt."""
        self.fire(NewServerEvent.SUPERSEDED, now)

    def on_ack3(self, option: Ack3, now: float) -> None:
        """The client's ACK3."""
        if self.key is None or option.attempt != self.attempt or not is_authentic(option, self.key):
            raise RemoteProtocolError("ACK3 with a wrong MAC or attempt; dropped")
        self.fire(NewServerEvent.ACK3, now)

    def on_refusal(self, option: Refusal, now: float) -> None:
        """The client has given this attempt up."""
        if self.key is None or option.attempt != self.attempt or not is_authentic(option, self.key):
            raise RemoteProtocolError("REFUSAL with a wrong MAC or attempt; dropped")
        self._abort = option.abort if any(option.abort) else self._abort
        self.fire(NewServerEvent.REFUSAL, now)

    def on_traffic(self, now: float) -> None:
        """The kernel has heard from the client: it has committed, whether its ACK3 arrived or not."""
        if self.state is NewServer.RESTORED:
            self.fire(NewServerEvent.ACK3, now)

    def send_state_request(self, now: float) -> None:
        m = self._migrate
        self._port.send_frame(m.old_server, StateRequest(self.old, self.four_tuple, m.rcv_nxt, m.attempt, m.mac))

    def restore(self, now: float) -> None:
        assert self.reply is not None
        try:
            self._port.restore(self.reply, self._migrate.rcv_nxt, self._client_window)
        except OSError:
            self._reason = Reason.RESTORE_FAILED
            self.fire(NewServerEvent.RESTORE_FAILED, now)

    def send_accept(self, now: float) -> None:
        if self.key is not None and self.state is not NewServer.FAILED:
            self._port.send(Accept(self.attempt).signed(self.key))
            if self.reply is not None:
                # The application has it now; an attempt is remembered for longer than megabytes of it should be.
                self.reply = self.reply.without_data()

    def send_reject(self, now: float) -> None:
        self._port.send(Reject(self.attempt, self._reason, self.tag))

    def send_done(self, now: float) -> None:
        self._port.send_frame(self._migrate.old_server, Done(self.old, self.attempt, self.tag))

    def send_release(self, now: float) -> None:
        if self._abort is not None:
            self._port.send_frame(self._migrate.old_server, Release(self.old, self.attempt, self.tag, self._abort))

    def discard(self, now: float) -> None:
        self._port.discard()
