"""Sessions of psql, pgbench and psycopg with a real PostgreSQL move: nothing is lost, done twice, or noticed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtcp.errors import MtcpError
from testbed import database, sandbox
from testbed.processes import PATIENCE, checked
from tests.root.corners import wait_until
from tests.root.scene import SERVERS, ClientProgram, Outcome, Scene
from topologies.database import PLAIN_PORT, running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(300 if sandbox.inside() else 1200)]

SEED = int(os.environ.get("MTCP_TEST_SEED", "1"))
KILLS = 6
MOVING = 120 * PATIENCE
"""Seconds for all moves of a test."""
FOR_EVER = "3600"
"""Seconds; clients are told when to end."""
ENTRIES = 200
"""Transactions that the books must have at least."""
KEPT = os.environ.get("MTCP_TEST_KEEP")
"""Directory for captures and logs; without it they go with the test."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = Path(KEPT) if KEPT else tmp_path_factory.mktemp("scene")
    with running(big=1_000_000, logs=directory) as net, Scene.of(net, directory) as scene:
        yield scene


def test_psql_over_plain_tcp(scene: Scene) -> None:
    command = ["psql", "-X", "-h", SERVERS[0], "-p", str(PLAIN_PORT), "-U", "postgres", "-At"]
    said = checked(
        scene.net.client,
        *command,
        "-c",
        "CREATE TABLE t(a int)",
        "-c",
        "INSERT INTO t VALUES (1),(2)",
        "-c",
        "SELECT sum(a) FROM t",
    )
    assert said.splitlines() == ["CREATE TABLE", "INSERT 0 2", "3"]


def test_psql_moves(scene: Scene) -> None:
    with scene.watched("psql"):
        client = scene.client("psql", "-X", "-h", SERVERS[0], "-U", "postgres", "-At")
        client.tell("CREATE TABLE moved(a int); SET search_path = public, pg_catalog; PREPARE p AS SELECT 40 + 2;")
        for line in ("CREATE TABLE", "SET", "PREPARE"):
            assert client.line() == line
        [connection] = scene.wait_for_connections()
        outcomes = []
        for n in range(4):
            outcomes.append(scene.move(connection))
            client.tell(f"INSERT INTO moved VALUES ({n}); SELECT sum(a) FROM moved; SHOW search_path; EXECUTE p;")
            assert [client.line() for _ in range(4)] == [
                "INSERT 0 1",
                str(sum(range(n + 1))),
                "public, pg_catalog",
                "42",
            ]
        client.tell("\\q")
        client.result()
    scene.judge(connection, outcomes)


def ledger(scene: Scene, what: str, *options: str | Path) -> list[str]:
    """The command of the ledger's client, through the front-end of plain TCP unless told otherwise."""
    return [sys.executable, "-m", "testbed.clients.ledger", what, "--host", SERVERS[0], *map(str, options)]


def move_about(scene: Scene, connections: list[str], count: int, seed: int) -> dict[str, list[Outcome]]:
    """`count` moves at random instants of random ones, and at least two of each; what was refused must be HELD.

    A connection moves on only when the server that it is at has sent something: a session that waits for its client,
    or for a processor, would visit servers that never hear of it.
    """
    draw, kept = random.Random(seed), 0
    moved: dict[str, list[Outcome]] = {connection: [] for connection in connections}
    heard = dict.fromkeys(connections, 0)
    deadline = time.monotonic() + MOVING
    while sum(map(len, moved.values())) < count or min(map(len, moved.values())) < 2:
        assert time.monotonic() < deadline, f"{moved}, {kept} attempts refused"
        time.sleep(draw.uniform(0, 0.01))
        connection = draw.choice(connections)
        if scene.received(connection) == heard[connection]:
            continue
        try:
            outcome = scene.move(connection)
        except MtcpError:  # its last move is still being completed
            continue
        if outcome["outcome"] == "moved":
            moved[connection].append(outcome)
            heard[connection] = scene.received(connection)
        else:
            assert outcome["reason"].startswith("HELD"), outcome
            kept += 1
    return moved


def test_ledger(scene: Scene, tmp_path: Path) -> None:
    """All ways to use the database, under moves: no error at all, and the books agree."""
    plain = ("--port", str(PLAIN_PORT))
    checked(scene.net.client, *ledger(scene, "prepare", *plain))
    with scene.watched("ledger"):
        client = scene.client(*ledger(scene, "run", "--sessions", "8", "--seconds", FOR_EVER, "--think", "0.005"))
        connections = scene.wait_for_connections(8)
        moved = move_about(scene, connections, 100, seed=1)
        wait_for_entries(scene)
        said = tmp_path / "said.json"
        said.write_text(client.result())
    books = json.loads(said.read_text())
    checked(scene.net.client, *ledger(scene, "check", *plain, "--said", said))
    assert set(books["outcomes"]) == {"acknowledged"}
    assert books["outcomes"]["acknowledged"] >= ENTRIES
    for connection, outcomes in moved.items():
        scene.judge(connection, outcomes, connections=8)


def test_killed_front_ends(scene: Scene, tmp_path: Path) -> None:
    """A front-end dies at any point of any transaction, its sessions move to the other, and it is started again."""
    plain = ("--port", str(PLAIN_PORT))
    checked(scene.net.client, *ledger(scene, "prepare", *plain))
    draw = random.Random(SEED)
    with scene.watched("killed"):
        client = scene.client(*ledger(scene, "run", "--sessions", "8", "--seconds", FOR_EVER))
        connections = scene.wait_for_connections(8)
        for n in range(KILLS):
            wait_for_answers(scene, connections)
            time.sleep(draw.uniform(0.2, 0.5))
            at, other = (scene.net.s1, scene.net.s2) if n % 2 == 0 else (scene.net.s2, scene.net.s1)
            with killed(scene, at):
                rescue(scene, connections, at, other)
        wait_for_entries(scene)
        said = tmp_path / "said.json"
        said.write_text(client.result())
    books = json.loads(said.read_text())
    checked(scene.net.client, *ledger(scene, "check", *plain, "--said", said))
    assert books["outcomes"].keys() <= {"acknowledged", "40001", "25P02", "08007"}, books["outcomes"]
    assert books["outcomes"]["acknowledged"] >= ENTRIES // 2
    for connection in connections:
        assert scene.seen(connection).handshakes == 1 and scene.seen(connection).resets == 0


@contextlib.contextmanager
def killed(scene: Scene, host: Any) -> Iterator[None]:
    """Its front-end, which is started again afterwards."""
    scene.net.pool.programs[f"postgres-{host}"].stop(signal.SIGKILL)
    try:
        yield
    finally:
        scene.net.start_front_end(host)


def wait_for_answers(scene: Scene, connections: list[str]) -> None:
    """Every session goes on."""
    before = {connection: scene.received(connection) for connection in connections}
    wait_until(lambda: all(scene.received(each) > before[each] for each in connections), "all go on", MOVING)


def wait_for_entries(scene: Scene) -> None:
    """The clients' books have enough in them."""
    wait_until(lambda: int(psql(scene, "SELECT count(*) FROM ledger")[0]) >= ENTRIES, "transactions", MOVING)


def rescue(scene: Scene, connections: list[str], dead: Any, other: Any) -> None:
    """Move all that are at the `dead` front-end's server to the other."""
    deadline = time.monotonic() + MOVING
    while True:
        rows = scene.connections()
        if ended := [name for name in connections if name not in rows]:
            raise AssertionError(f"{ended} ended: {scene.clients[0].result()}")
        left = [name for name in connections if rows[name]["current"].startswith(f"{dead.IP()}:")]
        if not left:
            return
        for connection in left:
            with contextlib.suppress(MtcpError):  # it has only just come here
                outcome = scene.move(connection, other.IP())
                assert time.monotonic() < deadline, outcome


def psql(scene: Scene, *commands: str) -> list[str]:
    """What they say, of the database itself."""
    words = [word for command in commands for word in ("-c", command)]
    where = ["-h", "127.0.0.1", "-p", str(database.PORT), "-U", "postgres"]
    return checked(scene.net.others[0], "psql", "-X", *where, "-At", *words).splitlines()


def two_sessions(scene: Scene) -> list[str]:
    """Those of pgbench, when the connection is over by which it asked for its tables' scale before."""
    found: list[str] = []

    def there_are() -> bool:
        found[:] = [each for each in scene.wait_for_connections(2) if scene.is_open(each)]
        return len(found) == 2

    wait_until(there_are, "two sessions of pgbench", MOVING)
    return found


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench_moves(scene: Scene, protocol: str) -> None:
    """Its own transactions, not one of which fails, and its own invariant."""
    where = ["-h", SERVERS[0], "-U", "postgres"]
    checked(scene.net.client, "pgbench", *where, "-p", str(PLAIN_PORT), "-i", "-q", "postgres")
    with scene.watched("pgbench"):
        options = ["-n", "-c", "2", "-M", protocol, "-T", FOR_EVER, "-R", "40"]
        client = scene.client("pgbench", *where, *options, "postgres")
        moved = move_about(scene, two_sessions(scene), 10, SEED)
        client.process.send_signal(signal.SIGALRM)  # as its own clock does when the time is over
        said = client.result()
    assert "number of failed transactions: 0 (0.000%)" in said
    sums = [f"(SELECT sum({column}) FROM {table})" for column, table in (
        ("abalance", "pgbench_accounts"), ("tbalance", "pgbench_tellers"), ("bbalance", "pgbench_branches"),
        ("delta", "pgbench_history"),
    )]  # fmt: skip
    [line] = psql(scene, f"SELECT (SELECT count(*) FROM pgbench_history), {', '.join(sums)}")
    count, *balances = line.split("|")
    assert f"number of transactions actually processed: {count}\n" in said and len(set(balances)) == 1
    for connection, outcomes in moved.items():
        scene.judge(connection, outcomes, connections=3)  # one asks for pgbench's scale first


def test_cancelled_after_a_move(scene: Scene) -> None:
    """The client asks the server that it began with; the session is at the other."""
    with scene.watched("cancel"):
        client = scene.client("psql", "-X", "-h", SERVERS[0], "-U", "postgres", "-At")
        client.tell("SELECT 1;")
        assert client.line() == "1"
        [connection] = scene.wait_for_connections()
        outcome = scene.move(connection)
        client.tell("SELECT pg_sleep(600) /* long */;")
        wait_until(lambda: psql(scene, LONG) == ["1"], "the statement runs")
        client.process.send_signal(signal.SIGINT)
        _, err = client.process.communicate(timeout=20 * PATIENCE)
        assert b"ERROR:  canceling statement due to user request" in err
    scene.judge(connection, [outcome], connections=2)  # one is the request


LONG = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE query LIKE '%/* long */%' AND pid <> pg_backend_pid() AND state = 'active'"
)
BOUND = {
    "open cursors": ("DECLARE mine CURSOR WITH HOLD FOR SELECT 1;", "CLOSE mine;"),
    "LISTEN": ("LISTEN mine;", "UNLISTEN mine;"),
    "temporary tables": ("CREATE TEMP TABLE mine (a int);", "DROP TABLE mine;"),
    "advisory locks": ("SELECT FROM pg_advisory_lock(7);", "SELECT FROM pg_advisory_unlock(7);"),
}


@pytest.mark.parametrize("name", BOUND)
def test_held(scene: Scene, name: str) -> None:
    """A session with something that lives in its backend stays until that has gone."""
    begin, end = BOUND[name]
    with scene.watched("held"):
        client = scene.client("psql", "-X", "-q", "-h", SERVERS[0], "-U", "postgres", "-At")
        client.tell(begin + "\n\\echo begun")
        until_said(client, "begun")
        [connection] = scene.wait_for_connections()
        kept = scene.move(connection)
        assert kept["outcome"] == "kept" and kept["reason"].startswith("HELD")
        client.tell(end + "\n\\echo ended")
        until_said(client, "ended")
        outcome = scene.move(connection)
        client.tell("SELECT 3;")
        assert client.line() == "3"
        client.tell("\\q")
        client.result()
    scene.judge(connection, [outcome])


def until_said(client: ClientProgram, word: str) -> None:
    """Read to that line: what a statement prints comes before it."""
    while client.line() != word:
        pass


def test_told_when_what_was_held_is_lost(scene: Scene) -> None:
    with scene.watched("lost"):
        client = scene.client("psql", "-X", "-q", "-h", SERVERS[0], "-U", "postgres", "-At")
        client.tell("CREATE TEMP TABLE mine (a int);\n\\echo begun")
        assert client.line() == "begun"
        [connection] = scene.wait_for_connections()
        with killed(scene, scene.net.s1):
            rescue(scene, [connection], scene.net.s1, scene.net.s2)
            client.tell("SELECT 3;")
            out, err = client.process.communicate(timeout=20 * PATIENCE)
        assert b"FATAL:  terminating connection because the server has ended that had its temporary tables" in err
        assert out == b""
    assert scene.seen(connection).handshakes == 1
