"""What a client sends is dealt with in units: a simple query, or the messages of the extended protocol up to Sync."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from testbed.services.pg import protocol, sql
from testbed.services.pg.protocol import Message
from testbed.services.pg.sql import Kind, Statement

LAST = "QFSH"
"""Messages that end a unit. Flush does so without ending the transaction."""


@dataclass
class Unit:
    """See above."""

    messages: list[Message]
    statement: Statement

    @property
    def raw(self) -> bytes:
        return b"".join(message.raw for message in self.messages)

    @property
    def simple(self) -> bool:
        return self.messages[-1].kind in "QF"

    @property
    def flush(self) -> bool:
        return self.messages[-1].kind == "H"

    def committed(self) -> bytes:
        """What PostgreSQL answers if this is one COMMIT."""
        if self.simple:
            return protocol.complete("COMMIT") + protocol.ready("I")
        answers = {"P": protocol.make("1"), "B": protocol.make("2"), "C": protocol.make("3"), "S": protocol.ready("I")}
        answers["E"] = protocol.complete("COMMIT")
        described = {b"S": protocol.make("t", bytes(2)) + protocol.make("n"), b"P": protocol.make("n")}
        return b"".join(
            described[message.body[:1]] if message.kind == "D" else answers.get(message.kind, b"")
            for message in self.messages
        )


class Statements:
    """The client's prepared statements and portals, as the messages in both directions tell."""

    def __init__(self, prepared: dict[str, bytes]) -> None:
        """`prepared`: the Parse message of each by name; kept up to date."""
        self.prepared = prepared
        self._portals: dict[str, Statement] = {}
        self._waiting: deque[Message] = deque()

    def read(self, messages: list[Message]) -> Unit:
        """What these messages do together."""
        parsed = dict[str, Statement]()
        executed = []
        for message in messages:
            body = message.body
            if message.kind == "Q":
                executed.append(sql.read(protocol.strings(body, 1)[0]))
            elif message.kind == "F":
                executed.append(Statement(Kind.OTHER))
            elif message.kind == "P":
                name, text = protocol.strings(body, 2)
                parsed[name] = sql.read(text)
            elif message.kind == "B":
                portal, name = protocol.strings(body, 2)
                self._portals[portal] = parsed.get(name) or self._known(name)
            elif message.kind == "E":
                executed.append(self._portals.get(protocol.strings(body, 1)[0], Statement(Kind.OTHER)))
        return Unit(messages, sql.combine(executed) if executed else sql.NOTHING)

    def _known(self, name: str) -> Statement:
        raw = self.prepared.get(name)
        # By SQL's PREPARE, or not at all.
        return sql.read(protocol.strings(raw[5:], 2)[1]) if raw is not None else Statement(Kind.OTHER, touches=True)

    # -- which answer belongs to which message

    def asked(self, unit: Unit) -> None:
        """The unit has been sent to the database."""
        self._waiting = deque(message for message in unit.messages if message.kind in "PBDEC")
        if unit.messages[-1].kind == "Q":
            self.prepared.pop("", None)

    @property
    def all_answered(self) -> bool:
        return not self._waiting

    def answered(self, answer: Message) -> None:
        """The database has said this."""
        waiting = self._waiting
        if answer.kind == "E":
            waiting.clear()
        if not waiting:
            return
        head = waiting[0]
        if (head.kind, answer.kind) in _ANSWERS:
            waiting.popleft()
        if answer.kind == "1" and head.kind == "P":
            self.prepared[protocol.strings(head.body, 1)[0]] = head.raw
        elif answer.kind == "3" and head.kind == "C" and head.body[:1] == b"S":
            self.prepared.pop(protocol.strings(head.body, 1, 1)[0], None)


_ANSWERS = {
    ("P", "1"), ("B", "2"), ("C", "3"), ("D", "T"), ("D", "n"), ("E", "C"), ("E", "I"), ("E", "s"),
}  # fmt: skip
