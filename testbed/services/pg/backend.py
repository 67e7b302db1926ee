"""The session's own connection to the database: messages, and the front-end's statements among the client's.

The front-end's statements are prepared under names that begin with `_mtcp_`, because a simple query would drop the
client's unnamed statement, and an unnamed portal the client's unnamed portal.
"""

from __future__ import annotations

from testbed.services.pg import protocol
from testbed.services.pg.effects import Answer, Ask, Connect, Register, Steps
from testbed.services.pg.protocol import Buffer, Message

PORTAL = "_mtcp_portal"
BEGIN, COMMIT, ROLLBACK, XID, ANY = (f"_mtcp_{name}" for name in ("begin", "commit", "rollback", "xid", "any"))
STATEMENTS = {
    BEGIN: "BEGIN",
    COMMIT: "COMMIT",
    ROLLBACK: "ROLLBACK",
    XID: "SELECT pg_catalog.pg_current_xact_id_if_assigned()::text",
}


class BackendGone(Exception):
    """The database has closed the connection; `last`: what it said before."""

    def __init__(self, last: list[Message] | None = None) -> None:
        super().__init__("the database has closed the connection")
        self.last = last or []


class Failed(Exception):
    """A statement of the front-end's own was refused; `error`: the ErrorResponse."""

    def __init__(self, error: Message) -> None:
        super().__init__(protocol.error_fields(error).get("M", ""))
        self.error = error


class Section(list[Message]):
    """The messages of an answer up to ReadyForQuery, which gave `status`."""

    status = ""

    @property
    def error(self) -> Message | None:
        return next((message for message in self if message.kind == "E"), None)

    @property
    def rows(self) -> list[list[str | None]]:
        return [protocol.row(message) for message in self if message.kind == "D"]


class Backend:
    """See above."""

    def __init__(self) -> None:
        self.buffer = Buffer()
        self.reported: dict[str, str] = {}
        """The server's parameters, as it last said."""
        self.changed: dict[str, str] = {}
        """Those that changed in the course of the front-end's own statements: the client is still to be told."""
        self._own = False

    def connect(self, startup: bytes, key: tuple[int, int]) -> Steps[Section]:
        """Begin a session; what the database says to that, which may be an ErrorResponse. `key`: the client's."""
        answer = Section()
        if not (yield Connect(startup)):
            answer.append(Message("E", protocol.error("08001", "the database cannot be reached", "FATAL")))
            return answer
        while True:
            message = yield from self.read()
            if message.kind == "Z":
                break
            if message.kind == "R" and protocol.integer(message.body, 0):
                words = "the database wants the front-end's clients to authenticate; let it trust the front-end"
                message = Message("E", protocol.error("28000", words, "FATAL"))
            if message.kind == "K":
                yield Register(key, (protocol.integer(message.body, 0), protocol.integer(message.body, 4)))
            else:
                answer.append(message)
            if message.kind == "E":
                return answer
        yield from self.prepare()
        return answer

    def prepare(self) -> Steps[None]:
        """(Again) what the front-end needs."""
        closed = b"".join(map(protocol.close_statement, STATEMENTS))
        parsed = b"".join(protocol.parse(name, sql) for name, sql in STATEMENTS.items())
        yield Ask(closed + parsed + protocol.SYNC)
        _checked((yield from self.section()))

    def read(self) -> Steps[Message]:
        """The next message; BackendGone."""
        while (message := self.buffer.message()) is None:
            data = yield Answer()
            if not data:
                raise BackendGone
            self.buffer.feed(data)
        if message.kind == "S":
            name, value = protocol.strings(message.body, 2)
            if self._own and self.reported.get(name) != value:
                self.changed[name] = value
            self.reported[name] = value
        return message

    def section(self) -> Steps[Section]:
        """The answer to something of the front-end's own, up to ReadyForQuery."""
        section = Section()
        self._own = True
        try:
            while (message := (yield from self.read())).kind != "Z":
                section.append(message)
        except BackendGone as error:
            raise BackendGone(section) from error
        finally:
            self._own = False
        section.status = message.body.decode()
        return section

    def run(self, name: str) -> Steps[Section]:
        """One of STATEMENTS."""
        yield Ask(own(name))
        return (yield from self.section())

    def query(self, sql: str) -> Steps[list[list[str | None]]]:
        """The rows of any other statement; Failed."""
        named = protocol.close_statement(ANY) + protocol.parse(ANY, sql)
        yield Ask(named + protocol.execute(ANY, PORTAL) + protocol.close_statement(ANY) + protocol.SYNC)
        return _checked((yield from self.section())).rows


def own(name: str) -> bytes:
    """The messages that run one of STATEMENTS."""
    return protocol.execute(name, PORTAL) + protocol.SYNC


def _checked(section: Section) -> Section:
    if section.error is not None:
        raise Failed(section.error)
    return section
