"""A session's server dies, or the session moves, at each single step of a conversation with a real PostgreSQL.

The client's stream must go on byte by byte where it was, every statement be answered, and every effect that was
acknowledged be there once, every other one not at all.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from testbed import database, sandbox
from testbed.namespaces import enter_network_of
from testbed.processes import PATIENCE
from testbed.services.pg import protocol
from testbed.services.pg.effects import Answer, Ask, Connect, Effect, Export, Receive, Send, Sleep
from testbed.services.pg.protocol import SYNC, Buffer, Message, execute, make, parse, query, text
from testbed.services.pg.session import Session
from testbed.services.pg.state import State
from topologies.database import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(300 if sandbox.inside() else 1200)]
STARTUP = protocol.startup_packet({"user": "postgres", "database": "postgres"})
ANSWERED = 60 * PATIENCE
"""Seconds within which the database says something."""
FAR = 10_000
"""Steps that no conversation has."""


@pytest.fixture(scope="module")
def in_database() -> Iterator[ThreadPoolExecutor | None]:
    """A thread on the database's host."""
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    with (
        running(agents=False) as net,
        ThreadPoolExecutor(1, initializer=enter_network_of, initargs=(net.others[0].pid,)) as thread,
    ):
        yield thread


class Died(Exception):
    """The server has ended, at the step that was chosen."""


class Client:
    """What a client sends, each unit when the one before it is answered; and the streams in both directions."""

    def __init__(self, units: list[bytes]) -> None:
        self._units = [STARTUP, *units, protocol.TERMINATE]
        self.sent, self.got = b"", b""
        self._buffer = Buffer()
        self.answers: list[list[Message]] = [[]]
        self.go_on()

    def go_on(self) -> None:
        if self._units:
            self.sent += self._units.pop(0)

    def receive(self, data: bytes) -> None:
        self.got += data
        self._buffer.feed(data)
        while (message := self._buffer.message()) is not None:
            self.answers[-1].append(message)
            if message.kind == "Z":
                self.answers.append([])
                self.go_on()


class Connection:
    """The client's connection: what M-TCP keeps of it, whichever server has it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.state, self.read_to, self.written_to, self.hold = b"", 0, 0, False
        self.owner: Server | None = None


class Server:
    """A server's end, which goes on where the connection is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read, self._swallow = connection.read_to, len(connection.client.got) - connection.written_to
        self._written = connection.written_to
        connection.owner = self
        state = State.load(connection.state) if connection.state else State(key=(7, 8))
        self._steps = Session(state).run()
        self._database: socket.socket | None = None
        self._result: Any = None

    def step(self) -> bool:
        """One effect; whether there are more."""
        try:
            effect = self._steps.send(self._result)
        except StopIteration:
            return False
        self._result = self._do(effect)
        return True

    def die(self) -> None:
        if self._database is not None:
            self._database.close()

    def _do(self, effect: Effect) -> Any:
        connection, client = self._connection, self._connection.client
        match effect:
            case Connect(startup):
                self._database = socket.create_connection(("127.0.0.1", database.PORT), ANSWERED)
                self._database.sendall(startup)
                return True
            case Ask(data):
                assert self._database is not None
                self._database.sendall(data)
            case Answer():
                assert self._database is not None
                return self._database.recv(1 << 16)
            case Receive():
                if connection.owner is not self:
                    raise Died
                data = client.sent[self._read :]
                assert data, "the client waits for an answer, and the server for the client"
                self._read += len(data)
                return "client", data
            case Export(dump, hold):
                if connection.owner is not self:
                    raise Died
                connection.state, connection.hold = dump(), hold
                connection.read_to, connection.written_to = self._read, self._written
            case Send(data):
                if connection.owner is not self:
                    raise Died
                again = data[: self._swallow]
                assert again == client.got[self._written : self._written + len(again)], "the stream is another one"
                self._swallow -= len(again)
                self._written += len(data)
                client.receive(data[len(again) :])
            case Sleep(seconds):
                time.sleep(seconds)
        return None


def bound(portal: str, statement: str, *values: str) -> bytes:
    """Bind with text parameters, and Execute."""
    parameters = b"".join(len(value).to_bytes(4, "big") + value.encode() for value in values)
    head = text(portal) + text(statement) + bytes(2)
    executed = make("E", text(portal), bytes(4))
    return make("B", head, len(values).to_bytes(2, "big"), parameters, bytes(2)) + executed


def insert(n: int) -> bytes:
    return query(f"INSERT INTO effects VALUES ({n}) RETURNING n")


CONVERSATIONS: dict[str, list[bytes]] = {
    "simple": [insert(0), insert(1), query("SELECT count(*) FROM effects"), query("SELECT 1/0"), insert(2)],
    "extended": [
        make("P", text("mine"), text("INSERT INTO effects VALUES ($1::int)"), bytes(2)) + SYNC,
        bound("", "mine", "0") + SYNC,
        bound("", "mine", "1") + bound("", "mine", "2") + SYNC,
        make("P", text(""), text("INSERT INTO effects VALUES ($1::int)"), bytes(2)) + SYNC,
        bound("", "", "3") + SYNC,
    ],
    "transaction": [
        query("BEGIN"), insert(0), insert(1), query("COMMIT"),
        query("BEGIN"), insert(2), query("ROLLBACK"),
        parse("b", "BEGIN") + parse("c", "COMMIT") + SYNC,
        execute("b", "") + SYNC, insert(3), execute("c", "") + SYNC, insert(4),
    ],
    "large": [
        query("INSERT INTO effects VALUES (0); SELECT repeat('x', 999) FROM generate_series(1, 300)"),
        query("COPY effects FROM STDIN") + make("d", b"1\n2\n") + make("d", b"3\n") + make("c"),
        query("CREATE TEMP TABLE mine (a int)"), query("DROP TABLE mine"), query("VACUUM effects"),
        query("SET my.own = 'set'; SET work_mem = '7MB'"), query("SELECT current_setting('my.own'), * FROM effects"),
    ],
    "pipeline": [
        parse("i", "INSERT INTO effects VALUES (0)") + execute("i", "") + make("H") + parse("j", "SELECT 5")
        + execute("j", "") + SYNC,
        insert(1),
    ],
}  # fmt: skip


def converse(name: str, at: int, moves: bool) -> tuple[Client, int]:
    """The conversation, in which its server ends at step `at`, or the connection moves then; and how many steps it had.

    A server whose connection has moved goes on for a while, as servers do.
    """
    prepare = socket.create_connection(("127.0.0.1", database.PORT), ANSWERED)
    prepare.sendall(
        STARTUP + query("CREATE TABLE IF NOT EXISTS effects (n int); TRUNCATE effects") + protocol.TERMINATE
    )
    while prepare.recv(1 << 16):
        pass
    client = Client(CONVERSATIONS[name])
    connection = Connection(client)
    server, steps = Server(connection), 0
    while server.step():
        steps += 1
        if steps != at or (moves and connection.hold):
            continue
        old, server = server, Server(connection)
        if not moves:
            old.die()
            continue
        for _ in range(3):
            server.step()
        with contextlib.suppress(Died):
            while old.step():
                pass
        old.die()
    return client, steps


def effects() -> list[int]:
    with socket.create_connection(("127.0.0.1", database.PORT), ANSWERED) as sock:
        sock.sendall(STARTUP + query("SELECT n FROM effects ORDER BY n") + protocol.TERMINATE)
        data = b""
        while piece := sock.recv(1 << 16):
            data += piece
    buffer, rows = Buffer(data), []
    while (message := buffer.message()) is not None:
        if message.kind == "D":
            rows.append(int(protocol.row(message)[0] or 0))
    return rows


def errors(client: Client) -> set[str]:
    return {
        protocol.error_fields(message)["C"] for answer in client.answers for message in answer if message.kind == "E"
    }


def acknowledged(name: str, client: Client) -> list[int]:
    """Which effects the client believes in."""
    units = CONVERSATIONS[name]
    answers = client.answers[1:-1]
    ended = "57P01" in errors(client)  # what it had at its backend is lost, and so it is told
    assert len(answers) == len(units) or ended, f"{len(answers)} answers to {len(units)} units"
    failed = [any(message.kind == "E" for message in answer) for answer in answers]
    committed = [any(b"COMMIT\0" in message.raw for message in answer if message.kind == "C") for answer in answers]
    if name == "simple":
        return [n for n, unit in ((0, 0), (1, 1), (2, 4)) if not failed[unit]]
    if name == "extended":
        return [n for n, unit in ((0, 1), (1, 2), (2, 2), (3, 4)) if not failed[unit]]
    if name == "large":
        return [n for n, unit in ((0, 0), (1, 1), (2, 1), (3, 1)) if not failed[unit]]
    if name == "pipeline":
        return [n for n in (0, 1) if not failed[n]]
    return [n for n, unit in ((0, 3), (1, 3), (3, 10)) if committed[unit]] + ([4] if not failed[11] else [])


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_undisturbed(in_database: ThreadPoolExecutor, name: str) -> None:
    def run() -> None:
        client, _ = converse(name, FAR, moves=False)
        assert errors(client) == ({"22012"} if name == "simple" else set())
        assert effects() == acknowledged(name, client)
        assert len(effects()) == {"simple": 3, "extended": 4, "transaction": 4, "large": 4, "pipeline": 2}[name]

    in_database.submit(run).result()


@pytest.mark.parametrize("moves", [False, True], ids=["deaths", "moves"])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_at_every_step(in_database: ThreadPoolExecutor, name: str, moves: bool) -> None:
    def run() -> None:
        undisturbed, steps = converse(name, FAR, moves)
        for at in range(1, steps + 1):
            client, _ = converse(name, at, moves)
            where = f"at step {at}: {errors(client)}"
            assert effects() == acknowledged(name, client), where
            allowed = set[str]() if moves else {"40001", "25P02"} | ({"57P01", "08007"} if name == "large" else set())
            assert errors(client) <= errors(undisturbed) | allowed, where
            if moves:
                assert client.answers[1:] == undisturbed.answers[1:], where

    in_database.submit(run).result()


def test_what_is_under_test_can_fail(in_database: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking for the transaction's outcome something happens twice, or what was done is denied."""

    def never(*_: object) -> Iterator[Any]:
        yield from ()
        return False

    monkeypatch.setattr("testbed.services.pg.restoring.outcome", never)

    def run() -> bool:
        for at in range(1, converse("simple", FAR, moves=False)[1] + 1):
            client, _ = converse("simple", at, moves=False)
            if effects() != acknowledged("simple", client):
                return True
        return False

    assert in_database.submit(run).result()
