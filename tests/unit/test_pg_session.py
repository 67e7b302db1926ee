"""A session of PostgreSQL, driven by hand, with a database that says what it is told to: what it asks for, in which
order. What it does with a real one is in tests/root/test_postgres_deaths.py."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.services.pg import protocol
from testbed.services.pg.effects import Answer, Ask, Cancel, Connect, Effect, Export, Receive, Register, Send
from testbed.services.pg.protocol import Buffer, make
from testbed.services.pg.session import Session
from testbed.services.pg.state import State

STARTUP = protocol.startup_packet({"user": "me", "database": "mine"})
KEY = (7, 8)


class Database:
    """Knows BEGIN, COMMIT, ROLLBACK; everything else writes, in transaction 42. A text with FAIL fails."""

    def __init__(self, authentication: bytes = protocol.AUTHENTICATED) -> None:
        self._authentication = authentication
        self._buffer = Buffer()
        self._statements: dict[str, str] = {}
        self._portals: dict[str, str] = {}
        self._skipping = False
        self.status = "I"
        self.out = b""
        self.did: list[str] = []

    def connect(self) -> None:
        more = protocol.parameter_status("server_version", "15") + protocol.key_data((1, 2)) + protocol.ready("I")
        self.out += self._authentication + more

    def receive(self, data: bytes) -> None:
        self._buffer.feed(data)
        while (message := self._buffer.message()) is not None:
            if message.kind == "S":
                self._skipping = False
                self.out += protocol.ready(self.status)
            elif message.kind == "Q":
                self._execute(protocol.strings(message.body, 1)[0])
                self._skipping = False
                self.out += protocol.ready(self.status)
            elif not self._skipping:
                self._extended(message.kind, message.body)

    def _extended(self, kind: str, body: bytes) -> None:
        if kind == "P":
            name, text = protocol.strings(body, 2)
            self._statements[name] = text
        elif kind == "B":
            portal, name = protocol.strings(body, 2)
            self._portals[portal] = self._statements[name]
        elif kind == "E":
            return self._execute(self._portals[protocol.strings(body, 1)[0]])
        self.out += make({"P": "1", "B": "2", "C": "3"}[kind])

    def _execute(self, text: str) -> None:
        word = text.split()[0]
        if "FAIL" in text or "SAVEPOINT" in text:
            self._skipping = True
            self.status = "E" if self.status == "T" else "I"
            self.out += protocol.error("22012", "it failed")
            return
        if "xact_id" in text:
            self.out += protocol.data_row(["42" if "INSERT" in self.did else None])
        else:
            self.did.append(word)
        self.status = {"BEGIN": "T", "COMMIT": "I", "ROLLBACK": "I"}.get(word, self.status)
        self.out += protocol.complete(word)


class Bench:
    """A session, its client's bytes, and everything that it asked for."""

    def __init__(self, *sent: bytes, database: Database | None = None, state: State | None = None) -> None:
        self.database = database or Database()
        self.effects: list[Effect] = []
        self.exported: list[tuple[State, bool]] = []
        self._sent = list(sent)
        self.session = Session(state or State(key=KEY))
        steps, result = self.session.run(), None
        try:
            while True:
                effect = steps.send(result)
                self.effects.append(effect)
                result = self._do(effect)
        except StopIteration:
            pass

    def _do(self, effect: Effect) -> Any:
        match effect:
            case Connect():
                self.database.connect()
                return True
            case Ask(data):
                self.database.receive(data)
            case Answer():
                out, self.database.out = self.database.out, b""
                assert out, "the database has nothing to say"
                return out
            case Receive():
                return "client", self._sent.pop(0) if self._sent else b""
            case Export(dump, hold):
                self.exported.append((State.load(dump()), hold))
        return None

    @property
    def said(self) -> bytes:
        return b"".join(effect.data for effect in self.effects if isinstance(effect, Send))

    def kinds(self) -> str:
        """Of the messages that the client got."""
        buffer, kinds = Buffer(self.said), ""
        while (message := buffer.message()) is not None:
            kinds += message.kind
        return kinds


def test_begins() -> None:
    bench = Bench(STARTUP[:5], STARTUP[5:])
    assert bench.kinds() == "RSKZ"
    assert protocol.key_data(KEY) in bench.said  # its own key, not the backend's
    assert Register(KEY, (1, 2)) in bench.effects
    [(state, hold)] = bench.exported
    assert (state.startup, state.pending, hold) == (STARTUP, bench.said, False)


@pytest.mark.parametrize("code", [protocol.SSL_REQUEST, protocol.GSS_REQUEST])
def test_declines_encryption(code: int) -> None:
    bench = Bench((8).to_bytes(4, "big") + code.to_bytes(4, "big"), STARTUP)
    assert bench.said[:1] == b"N" and bench.said[1:] == bench.exported[0][0].pending


def test_cancels() -> None:
    assert Bench(protocol.cancel_request((3, 4))).effects[-1] == Cancel((3, 4), forwarded=False)
    asked = protocol.cancel_request((3, 4), protocol.CANCEL_FORWARDED)
    assert Bench(asked).effects[-1] == Cancel((3, 4), forwarded=True)


def test_a_database_that_does_not_trust_it() -> None:
    bench = Bench(STARTUP, database=Database(make("R", (10).to_bytes(4, "big"))))
    assert bench.kinds() == "E" and b"C28000" in bench.said


@pytest.mark.parametrize("packet", [b"\0\0\0\x08\0\2\0\0", b"\0\0\0\4", b"\xff\xff\xff\xff"])
def test_other_protocols(packet: bytes) -> None:
    assert b"C08P01" in Bench(packet).said


def test_nothing_is_said_that_was_not_exported() -> None:
    bench = Bench(STARTUP, *(protocol.query(text) for text in ("BEGIN", "INSERT", "COMMIT", "INSERT", "FAIL")))
    for before, effect in zip(bench.effects, bench.effects[1:], strict=False):
        if isinstance(effect, Send):
            assert isinstance(before, Export)
    pending = [state.pending for state, _ in bench.exported if state.pending]
    assert b"".join(pending) == bench.said


def test_a_statement_is_committed_after_its_transaction_was_exported() -> None:
    bench = Bench(STARTUP, protocol.query("INSERT"))
    assert bench.database.did == ["BEGIN", "INSERT", "COMMIT"]
    doubtful = [state for state, hold in bench.exported if state.doubt and hold]
    assert [(state.doubt, state.unit) for state in doubtful] == [("42", protocol.query("INSERT"))]
    exports = [at for at, effect in enumerate(bench.effects) if isinstance(effect, Export)]
    commits = [
        at for at, effect in enumerate(bench.effects) if isinstance(effect, Ask) and b"_mtcp_commit" in effect.data
    ]
    assert exports[-2] < commits[-1] < exports[-1]
    assert bench.kinds() == "RSKZCZ" and bench.said.endswith(doubtful[0].answer)


def test_a_statement_that_fails_is_rolled_back() -> None:
    bench = Bench(STARTUP, protocol.query("FAIL"))
    assert bench.database.did == ["BEGIN", "ROLLBACK"]
    assert bench.kinds() == "RSKZEZ" and bench.said.endswith(protocol.ready("I"))
    assert not any(state.doubt for state, _ in bench.exported)


def test_a_transaction_is_held() -> None:
    bench = Bench(STARTUP, *map(protocol.query, ("BEGIN", "INSERT", "COMMIT")))
    assert bench.database.did == ["BEGIN", "INSERT", "COMMIT"]
    assert [hold for _, hold in bench.exported] == [False, True, True, True, False]
    assert [state.doubt for state, _ in bench.exported] == ["", "", "", "42", ""]


def test_what_the_client_sends_ahead_is_exported() -> None:
    more = protocol.query("INSERT")
    bench = Bench(STARTUP + more[:3], more[3:])
    assert bench.exported[0][0].input == more[:3]


@pytest.mark.parametrize(
    ("text", "kinds", "status"),
    [("INSERT", "EZ", "E"), ("COMMIT", "EZ", "I"), ("ROLLBACK", "CZ", "I")],
)
def test_after_a_transaction_was_lost(text: str, kinds: str, status: str) -> None:
    state = State(startup=STARTUP, key=KEY, status="T", reported={"server_version": "15"})
    bench = Bench(protocol.query(text), state=state)
    assert bench.kinds() == kinds and bench.said.endswith(protocol.ready(status))
    assert (b"C40001" in bench.said) == ("E" in kinds)
