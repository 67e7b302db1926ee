"""Sessions of psql, pgbench and psycopg with a real PostgreSQL move: nothing is lost, done twice, or noticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.processes import checked
from tests.root.scene import SERVERS, Scene
from topologies.database import PLAIN_PORT, running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(300 if sandbox.inside() else 1200)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("scene")
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
