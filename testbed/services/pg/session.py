"""A client's session with PostgreSQL, on whichever server its connection is: bytes in, effects out.

**What is exported.** No answer goes to the client before a state has been exported that contains it
(`State.pending`). So nothing ever has to be made twice, byte by byte: who goes on writes the same bytes, and the
library swallows those that the client has. What the client sent and nobody has dealt with is in `State.input`, or in
the read log, and dealt with then.

**When the session may move.** Between two units, and while one is under way whose effects are still undone when this
server ends: another server then does it anew. Everything else is exported with `hold`: it moves only if this
application dies, and the state says what to tell the client then. Held are: a transaction of the client's (its backend
cannot follow), the rest of an answer that is larger than PIECE, a commit under way, what is UNSAFE, and a session with
something that lives in its backend (`restoring.BOUND`).

**Exactly once.** A unit outside of a transaction that may write is run in a transaction of the front-end's. Before its
COMMIT, and before a COMMIT of the client's, the front-end asks for the transaction's id and exports it (`State.doubt`).
The export is the instant of decision: if the connection has gone, it fails, nothing is committed, and the next server,
whose state does not know of the unit, runs it. If this server dies after it, the next one asks the database what became
of that id (`restoring.outcome`), having ended the backend if it is still about to commit. Committed: the client gets
its answer. Not: the unit is run again, and of a client's transaction it hears 40001, as after any failed serialization.
What cannot run in a transaction (VACUUM, CREATE DATABASE) is UNSAFE: after a death the client hears 08007, "transaction
resolution unknown".
"""

from __future__ import annotations

from testbed.services.pg import backend, protocol, restoring
from testbed.services.pg.backend import BackendGone, Failed, Section
from testbed.services.pg.conversation import Closed, Conversation
from testbed.services.pg.effects import Ask, Send, Steps
from testbed.services.pg.protocol import Buffer, Message, ProtocolViolation
from testbed.services.pg.sql import Kind
from testbed.services.pg.state import State
from testbed.services.pg.units import Unit

PIECE = 1 << 17
"""Bytes of an answer that are gathered before the client gets them."""
REPEATABLE = 1 << 18
"""Bytes of a unit that goes with the state, to be run again."""
LOST = "the transaction was rolled back because the server that ran it has ended"
UNKNOWN = "the server that ran this has ended, and nobody knows whether it has taken place"
NOT_IN_TRANSACTION = ("25001", "2D000")
"""SQLSTATEs of what must not run in a transaction."""


class Session(Conversation):
    """See above."""

    def __init__(self, state: State) -> None:
        """`state`: a new one's has nothing but a key."""
        super().__init__(state)
        self.ours = False
        """Whether a transaction of the front-end's is open around the client's units."""
        self._lost = False
        self._skipping = False
        """Whether everything up to Sync is to be ignored, as after any error."""
        self._aborted = False
        """Whether the backend ignores everything up to Sync."""
        self._dirty = False
        """Whether the session may have changed beside its transaction since it was last looked at."""

    def run(self) -> Steps[None]:
        """All of it."""
        try:
            if self.state.startup:
                yield from self._resume()
            elif not (yield from self._begin()):
                return
            while True:
                yield from self._perform((yield from self._next_unit()))
        except BackendGone as gone:
            yield from self._say_goodbye(gone.last)
        except ProtocolViolation as error:
            yield from self._deliver(protocol.error("08P01", f"protocol violation: {error}", "FATAL"))
        except Failed as failed:
            code = protocol.error_fields(failed.error).get("C", "XX000")
            yield from self._deliver(protocol.error(code, f"the front-end failed: {failed}", "FATAL"))
        except Closed:
            return

    # -- going on

    def _resume(self) -> Steps[None]:
        """Go on from another server's state."""
        state = self.state
        yield Send(state.pending)
        answer = yield from self.backend.connect(state.startup, state.key)
        if answer.error is not None:
            yield from self._say_goodbye(list(answer))
            raise Closed
        committed = False
        if state.doubt:
            committed = yield from restoring.outcome(self.backend, state.doubt)
        yield from restoring.restore(self.backend, state)
        said = [protocol.parameter_status(*each) for each in self.backend.reported.items() - state.reported.items()]
        state.reported = dict(self.backend.reported)
        self.backend.changed.clear()
        bound = state.bound_then if committed else state.bound
        doubtful, unsafe, streaming = state.doubt, state.unsafe, state.streaming
        state.bound, state.bound_then, state.doubt, state.unsafe, state.streaming = [], [], "", False, ""
        if committed:
            said.append(state.answer)
            state.status = "I"
        elif doubtful and state.unit:
            self.client = Buffer(state.unit + state.input)
            state.status = "I"
        elif unsafe or streaming or doubtful:
            said.append(protocol.error("08007", UNKNOWN) if unsafe else protocol.error("40001", LOST))
            if unsafe or doubtful:
                state.status = "I"
            if state.status != "I":
                yield from self._fail_transaction()
            self._skipping = streaming == "sync"
            if not self._skipping:
                said.append(protocol.ready(state.status))
        elif state.status != "I":
            self._lost = state.status == "T"
            yield from self._fail_transaction(only_begin=self._lost)
        state.answer = state.unit = b""
        if bound:
            words = f"terminating connection because the server has ended that had its {' and '.join(bound)}"
            said.append(protocol.error("57P01", words, "FATAL"))
        if said:
            yield from self._deliver(*said)
        if bound:
            raise Closed

    def _fail_transaction(self, only_begin: bool = False) -> Steps[None]:
        """Have the backend in the state in which the client believes it, or is about to."""
        yield from self.backend.run(backend.BEGIN)
        if not only_begin:
            yield from self._break_transaction()
            self.state.status = "E"

    def _break_transaction(self) -> Steps[None]:
        yield Ask(protocol.query("ROLLBACK TO SAVEPOINT _mtcp_none"))
        yield from self.backend.section()
        self.state.prepared.pop("", None)

    # -- units

    def _perform(self, unit: Unit) -> Steps[None]:
        kind, state = unit.statement.kind, self.state
        if state.streaming and not unit.flush:
            state.streaming = "ready"
        if unit.flush and (self._aborted or len(unit.messages) == 1):
            return  # nothing is to be had
        self._aborted = False
        if self._skipping:
            if not unit.flush:
                self._skipping = False
                yield from self._deliver(protocol.ready(state.status))
        elif self._lost:
            yield from self._report_loss(unit)
        elif self.ours or (state.status == "I" and not state.streaming and kind is Kind.OTHER):
            yield from self._wrapped(unit)
        elif kind is Kind.UNSAFE or (unit.flush and kind is Kind.COMMIT):
            yield from self._unsafe(unit)
        elif kind is Kind.COMMIT and state.status == "T":
            yield from self._commit(unit)
        else:
            yield from self._plain(unit)

    def _plain(self, unit: Unit) -> Steps[None]:
        """As it is."""
        yield from self._ask(unit)
        answer = yield from self._answer(unit)
        yield from self._finish(unit, answer)

    def _finish(self, unit: Unit, answer: Section) -> Steps[None]:
        """The answer has come to its end."""
        if answer.status:
            self.state.status = answer.status
            self.state.streaming, self.state.unsafe = "", False
            yield from self._look(unit)
        else:
            self.state.streaming = "sync"
        ready = [protocol.ready(answer.status)] if answer.status else []
        yield from self._deliver(*(message.raw for message in answer), *ready)

    def _ask(self, unit: Unit, before: bytes = b"", after: bytes = b"") -> Steps[None]:
        self.statements.asked(unit)
        yield Ask(before + unit.raw + after)

    def _answer(self, unit: Unit) -> Steps[Section]:
        """What is still to be delivered of the unit's answer; without status if it ended with Flush."""
        answer, size = Section(), 0
        while not (unit.flush and self.statements.all_answered):
            message = yield from self._read(answer)
            if message.kind == "Z":
                answer.status = message.body.decode()
                break
            self.statements.answered(message)
            answer.append(message)
            size += len(message.raw)
            if message.kind == "G" or size > PIECE:
                self.state.streaming = "sync" if unit.flush or (message.kind == "G" and not unit.simple) else "ready"
                yield from self._deliver(*(each.raw for each in answer))
                answer.clear()
                size = 0
            if message.kind == "G":
                yield from self._copy_in(unit)
        self._aborted = unit.flush and answer.error is not None
        return answer

    def _read(self, answer: Section) -> Steps[Message]:
        try:
            return (yield from self.backend.read())
        except BackendGone as error:
            raise BackendGone(list(answer)) from error

    def _copy_in(self, unit: Unit) -> Steps[None]:
        """Take the client's data to the database."""
        unexported = 0
        while True:
            while (message := self.client.message()) is not None:
                if message.kind == "X":
                    raise Closed
                yield Ask(message.raw)
                unexported += len(message.raw)
                if (message.kind in "cf" and unit.simple) or message.kind == "S":
                    self.state.streaming = "ready"
                    return
            if unexported > PIECE and len(self.client.rest) <= REPEATABLE:
                self.state.pending = b""
                yield from self._export()
                unexported = 0
            yield from self._receive()

    def _wrapped(self, unit: Unit) -> Steps[None]:
        """In a transaction of the front-end's."""
        begun, self.ours = self.ours, True
        together = not (unit.flush or unit.statement.copies)
        before = b"" if begun else backend.own(backend.BEGIN)
        after = backend.own(backend.XID) if together else b""
        yield from self._ask(unit, before, after)
        if not begun:
            yield from self.backend.section()
        if unit.statement.kind in (Kind.BEGIN, Kind.UNSAFE) and begun:
            self.ours = False  # the client's own now; what came before it in the pipeline belongs to it
        answer = yield from self._answer(unit)
        if not answer.status:
            yield from self._finish(unit, answer)
            return
        xid = yield from (self.backend.section() if together else self.backend.run(backend.XID))
        if not self.ours:
            yield from self._finish(unit, answer)
            return
        self.ours = False
        if answer.status == "T" and xid.error is None:
            yield from self._commit_ours(unit, answer, xid.rows[0][0])
            return
        yield from self.backend.run(backend.ROLLBACK)
        failed = answer.error
        again = failed is not None and protocol.error_fields(failed).get("C") in NOT_IN_TRANSACTION
        if again and not self.state.streaming:
            for message in unit.messages:
                if message.kind == "P" and (name := protocol.strings(message.body, 1)[0]):
                    yield from self.backend.query(f"DEALLOCATE {restoring.identifier(name)}")
                    self.state.prepared.pop(name, None)
            yield from self._unsafe(unit)
            return
        if answer.status == "T" and xid.error is not None:
            _fail(answer, unit, xid.error)  # cancelled late
        answer.status = "I"
        yield from self._finish(unit, answer)

    def _commit_ours(self, unit: Unit, answer: Section, xid: str | None) -> Steps[None]:
        """Commit the transaction around the unit; `xid`: None when it has written nothing."""
        state = self.state
        bound = state.bound
        yield from self._look(unit)
        if xid is not None:
            raw = unit.raw
            state.bound, state.bound_then = bound, state.bound
            state.doubt, state.pending = xid, b""
            state.unit = raw if not state.streaming and len(raw) <= REPEATABLE else b""
            state.answer = b"".join(message.raw for message in answer) + protocol.ready("I")
            yield from self._export()
            state.bound, state.bound_then = state.bound_then, []
        done = yield from self.backend.run(backend.COMMIT)
        state.doubt, state.unit, state.answer = "", b"", b""
        if done.error is not None:
            _fail(answer, unit, done.error)
        answer.status = "I"
        state.streaming = ""
        state.status = "I"
        yield from self._deliver(*(message.raw for message in answer), protocol.ready("I"))

    def _commit(self, unit: Unit) -> Steps[None]:
        """The client's COMMIT."""
        state = self.state
        xid = yield from self.backend.run(backend.XID)
        if xid.error is not None:  # cancelled: PostgreSQL says so, and has nothing to commit then
            yield from self.backend.run(backend.ROLLBACK)
            state.status = "I"
            yield from self._deliver(xid.error.raw, protocol.ready("I"))
            return
        if xid.rows[0][0] is not None:
            state.doubt, state.pending, state.unit = xid.rows[0][0], b"", b""
            state.answer = unit.committed()
            state.bound_then = [*state.bound, *(["settings"] if self._dirty else [])]
            yield from self._export()
            state.bound_then = []
        yield from self._ask(unit)
        answer = yield from self._answer(unit)
        state.doubt, state.answer = "", b""
        yield from self._finish(unit, answer)

    def _unsafe(self, unit: Unit) -> Steps[None]:
        """What nobody can trace."""
        self.state.unsafe, self.state.pending = True, b""
        if unit.flush:
            self.state.streaming = "sync"
        yield from self._export()
        yield from self._plain(unit)

    def _report_loss(self, unit: Unit) -> Steps[None]:
        """The first unit after a transaction was lost with its server."""
        self._lost = False
        kind, state = unit.statement.kind, self.state
        if kind is Kind.ROLLBACK and not unit.flush:
            yield from self._plain(unit)
            return
        if kind is Kind.COMMIT:
            yield from self.backend.run(backend.ROLLBACK)
            state.status = "I"
        else:
            yield from self._break_transaction()
            state.status = "E"
        self._skipping = unit.flush
        yield from self._deliver(protocol.error("40001", LOST), *([] if unit.flush else [protocol.ready(state.status)]))

    # -- the session's own things

    def _look(self, unit: Unit) -> Steps[None]:
        """Find out what has changed, if something may have."""
        state = self.state
        if state.status == "E":
            self._dirty |= unit.statement.touches
            return
        if any(word in unit.raw.upper() for word in (b"DEALLOCATE", b"DISCARD")):
            yield from self.backend.prepare()
        state.custom = sorted({*state.custom, *unit.statement.settings})
        self._dirty |= unit.statement.touches or self.backend.reported != state.reported or bool(state.bound)
        if self._dirty and state.status == "I":
            yield from restoring.look(self.backend, state)
            self._dirty = False


def _fail(answer: Section, unit: Unit, error: Message) -> None:
    """Make it the answer of a unit that failed at its commit."""
    if unit.simple and answer and answer[-1].kind == "C":
        answer.pop()
    answer.append(error)
