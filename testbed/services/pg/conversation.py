"""The client's side of a session: how it begins, what it asks for, what it is told."""

from __future__ import annotations

from testbed.services.pg import protocol
from testbed.services.pg.backend import Backend, BackendGone
from testbed.services.pg.effects import Cancel, Export, Receive, Send, Steps
from testbed.services.pg.protocol import Buffer, Message, ProtocolViolation
from testbed.services.pg.state import State
from testbed.services.pg.units import LAST, Statements, Unit


class Closed(Exception):
    """The client has gone, or has been told to."""


class Conversation:
    """See above."""

    def __init__(self, state: State) -> None:
        """`state`: a new one's has nothing but a key."""
        self.state = state
        self.client = Buffer(state.input)
        self.backend = Backend()
        self.statements = Statements(state.prepared)

    def _begin(self) -> Steps[bool]:
        """Whether there is a session."""
        while True:
            packet = yield from self._startup_packet()
            code = protocol.integer(packet, 4)
            if code in (protocol.SSL_REQUEST, protocol.GSS_REQUEST):
                yield Send(b"N")
            elif code in (protocol.CANCEL_REQUEST, protocol.CANCEL_FORWARDED):
                key = protocol.integer(packet, 8), protocol.integer(packet, 12)
                yield Cancel(key, forwarded=code == protocol.CANCEL_FORWARDED)
                return False
            elif code >> 16 != protocol.VERSION_3:
                raise ProtocolViolation(f"version {code >> 16}.{code & 0xFFFF} is not spoken here")
            elif "replication" in protocol.startup_parameters(packet):
                yield Send(protocol.error("0A000", "replication does not go through this front-end", "FATAL"))
                return False
            else:
                break
        self.state.startup = packet
        answer = yield from self.backend.connect(packet, self.state.key)
        said = [message.raw for message in answer]
        if answer.error is not None:
            yield Send(b"".join(said))
            return False
        yield from self._deliver(*said, protocol.key_data(self.state.key), protocol.ready("I"))
        return True

    def _startup_packet(self) -> Steps[bytes]:
        while (packet := self.client.startup()) is None:
            yield from self._receive()
        return packet

    def _receive(self) -> Steps[None]:
        """Wait for something from either side. Closed; BackendGone."""
        source, data = yield Receive()
        if source == "client":
            if not data:
                raise Closed
            self.client.feed(data)
            return
        if not data:
            raise BackendGone
        self.backend.buffer.feed(data)

    def _next_unit(self) -> Steps[Unit]:
        """The next thing that the client wants done; meanwhile, what the database says of its own accord."""
        messages: list[Message] = []
        while True:
            while (message := self.client.message()) is not None:
                if message.kind == "X":
                    raise Closed
                if message.kind in "QFPBDECHS":
                    messages.append(message)
                elif message.kind not in "dcf":  # of a COPY that has failed
                    raise ProtocolViolation(f"message {message.kind!r}")
                if message.kind in LAST:
                    return self.statements.read(messages)
            yield from self._receive()
            said = []
            while (message := self.backend.buffer.message()) is not None:
                if message.kind == "S":
                    name, value = protocol.strings(message.body, 2)
                    self.backend.reported[name] = value
                said.append(message.raw)
            if said:
                unread = b"".join(each.raw for each in messages) + self.client.rest
                yield from self._deliver(*said, unread=unread)

    def _deliver(self, *said: bytes, unread: bytes | None = None) -> Steps[None]:
        """Give this to the client. See the module's docstring."""
        changed = self.backend.changed
        if changed:
            told = [protocol.parameter_status(*each) for each in changed.items()]
            said = (*said[:-1], *told, *said[-1:])
            changed.clear()
        self.state.reported = dict(self.backend.reported)
        self.state.pending = b"".join(said)
        yield from self._export(unread)
        yield Send(self.state.pending)

    def _export(self, unread: bytes | None = None) -> Steps[None]:
        self.state.input = self.client.rest if unread is None else unread
        yield Export(self.state.dump, self.state.hold)

    def _say_goodbye(self, last: list[Message]) -> Steps[None]:
        said = [message.raw for message in last if message.kind in "ENS"]
        if not any(message.kind == "E" for message in last):
            said.append(protocol.error("57P01", "terminating connection because the database has ended it", "FATAL"))
        # If a commit was under way, the next server shall find out; here nobody can.
        if not self.state.doubt:
            yield from self._deliver(*said)
