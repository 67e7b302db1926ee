"""The client's role: it picks the new server, and the move commits with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mtcp import keys
from mtcp.address import Endpoint, FourTuple
from mtcp.errors import LocalProtocolError, Reason, RemoteProtocolError
from mtcp.roles.machine import Machine
from mtcp.states import CLIENT, Client, ClientEvent
from mtcp.wire.options import Abort, AbortAck, Accept, Ack3, AnyOption, Migrate, Query, Refusal, Reject, is_authentic


@dataclass(frozen=True)
class Mark:
    """What the mapping says as it falls silent towards the old server."""

    rcv_nxt: int
    attempt: int


class ClientPort(Protocol):
    """What the client's role needs of its host."""

    def begin_mapping(self, server: Endpoint) -> Mark:
        """Entry -> MIGRATING: nothing goes to the old server or comes from it; `server`'s ACCEPT commits."""

    def abort_mapping(self) -> bool:
        """Entry -> TRACKED unless it has committed; False when it has."""

    def send(self, server: Endpoint, option: AnyOption) -> None:
        """A control segment to `server`."""

    def report(self, moved: bool, server: Endpoint, reason: str) -> None:
        """The attempt to move to `server` has ended."""


class ClientRole(Machine):
    """One connection at the client."""

    table = CLIENT
    retry_event = ClientEvent.RETRY
    give_up_event = ClientEvent.GIVE_UP
    patience = 5.0

    def __init__(self, four_tuple: FourTuple, key: bytes, current: Endpoint, port: ClientPort) -> None:
        """`four_tuple` is what the application sees; `current` is the server that has the connection now."""
        super().__init__(Client.TRACKED)
        self.four_tuple = four_tuple
        self.key = key
        self.current = current
        self.attempt = 0
        self.target: Endpoint | None = None
        self._migrate: Migrate | None = None
        self._given_up = False
        """Whether the last attempt is known not to have committed."""
        self._reason = ""
        self._asking = (current, 0)
        """The server to answer, and the attempt that it speaks of."""
        self._port = port

    def migrate(self, server: Endpoint, now: float) -> None:
        """Start a move to `server`; LocalProtocolError when one is under way or `server` has the connection."""
        if server == self.current:
            raise LocalProtocolError(f"{server} has this connection already; name another server")
        if self.state is Client.TRACKED:
            self.target = server
        self._reason = "no answer from the new server; is its agent running (`mtcp status` there)?"
        before = self.state
        try:
            self.fire(ClientEvent.MIGRATE, now)
        except LocalProtocolError:
            # Also when the mapping refuses: nothing has begun then, and no timer would ever end it.
            self.state = before
            raise

    def recover(self, target: Endpoint | None, attempt: int, now: float) -> None:
        """Go on for an agent that has ended: `attempt` is the mapping's last; under way to `target`, if not None."""
        self.attempt = attempt
        if target is not None:
            self.target = target
            self._reason = "this host's agent ended in the middle of the move, and began anew"
            self.fire(ClientEvent.RECOVERED, now)

    def committed(self, now: float) -> None:
        """The mapping has let the new server in."""
        self.fire(ClientEvent.COMMITTED, now)

    def closed(self, now: float) -> None:
        """The client's socket is gone."""
        self._fail("the application closed the connection", ClientEvent.CLOSED, now)

    def on_option(self, server: Endpoint, option: AnyOption, now: float) -> None:
        """A control segment from `server`."""
        match option:
            case Accept() | AbortAck() | Query() if not is_authentic(option, self.key):
                raise RemoteProtocolError(f"{option.subtype.name} from {server} with a wrong MAC; dropped")
            case Accept(attempt=attempt):
                self._asking = server, attempt
                self.fire(self._about_accept(server, attempt), now)
            case Query(attempt=attempt):
                self._asking = server, attempt
                self.fire(self._about_query(server, attempt), now)
            case AbortAck(attempt=attempt) if attempt == self.attempt and server == self.current:
                self.fire(ClientEvent.ABORT_ACK, now)
            case Reject(attempt=attempt, reason=reason, tag=tag):
                asked = self._migrate is not None and keys.matches(tag, self._migrate.mac)
                if server != self.target or attempt != self.attempt or not asked:
                    raise RemoteProtocolError(f"REJECT of attempt {attempt} from {server}: not asked; dropped")
                self._fail(_explain(reason), ClientEvent.REJECT, now)
            case _:
                raise RemoteProtocolError(f"{option} from {server} is not for this client now; dropped")

    def _fail(self, reason: str, event: ClientEvent, now: float) -> None:
        if self._undecided:
            self._reason = reason
        self.fire(event, now)

    def _about_accept(self, server: Endpoint, attempt: int) -> ClientEvent:
        if self._undecided and attempt == self.attempt and server == self.target:
            return ClientEvent.ACCEPT
        # An earlier attempt to move to the present server is over there since the one that led to it.
        return ClientEvent.LATE_ACCEPT if server == self.current else ClientEvent.GIVEN_UP_ACCEPT

    def _about_query(self, server: Endpoint, attempt: int) -> ClientEvent:
        # A server asks for one attempt at a time: that of the last request it answered, or that by which it took the
        # connection. So whether that succeeded is whether it has the connection: there is nothing else to remember.
        if self._undecided and attempt >= self.attempt and server in (self.current, self.target):
            return ClientEvent.EARLY_QUERY
        return ClientEvent.OWNERS_QUERY if server == self.current else ClientEvent.STRANGERS_QUERY

    @property
    def _undecided(self) -> bool:
        return self.state is Client.SS_ISMIGRATING

    def begin_mapping(self, now: float) -> None:
        assert self.target is not None
        mark = self._port.begin_mapping(self.target)
        self.attempt, self._given_up = mark.attempt, False
        unsigned = Migrate(self.current, mark.rcv_nxt, mark.attempt)
        self._migrate = unsigned.signed(self.key, self.four_tuple.local, self.target)

    def abort_mapping(self, now: float) -> None:
        self._given_up = self._port.abort_mapping()
        self.fire(ClientEvent.KEPT if self._given_up else ClientEvent.COMMITTED, now)

    def send_migrate(self, now: float) -> None:
        assert self.target is not None and self._migrate is not None
        self._port.send(self.target, self._migrate)

    def send_ack3(self, now: float) -> None:
        server = self.target or self.current
        self._port.send(server, Ack3(self.attempt).signed(self.key))

    def send_abort(self, now: float) -> None:
        self._port.send(self.current, Abort(self.attempt).signed(self.key))

    def send_refusal(self, now: float) -> None:
        assert self.target is not None
        self._port.send(self.target, self._refusal(self.attempt))

    def answer_abort(self, now: float) -> None:
        server, attempt = self._asking
        self._port.send(server, Abort(attempt).signed(self.key))

    def answer_ack3(self, now: float) -> None:
        server, attempt = self._asking
        self._port.send(server, Ack3(attempt).signed(self.key))

    def answer_refusal(self, now: float) -> None:
        server, attempt = self._asking
        self._port.send(server, self._refusal(attempt))

    def _refusal(self, attempt: int) -> Refusal:
        # Of earlier attempts it is not known whether they were given up, or led to a server that was left since.
        if attempt == self.attempt and self._given_up:
            return Refusal(attempt, Abort(attempt).signed(self.key).mac).signed(self.key)
        return Refusal(attempt).signed(self.key)

    def report_moved(self, now: float) -> None:
        assert self.target is not None
        self.current = self.target
        self._port.report(True, self.target, "")

    def report_kept(self, now: float) -> None:
        assert self.target is not None
        self._port.report(False, self.target, self._reason)


def _explain(reason: Reason) -> str:
    return f"{reason.name}: {reason.advice}"
