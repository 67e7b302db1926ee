"""Connections that are half closed move: the end of a stream is read once, after all of its bytes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from testbed import sandbox
from tests.root.corners import CLIENTS, STREAM, held, serve, stage, wait_until, wait_until_forgotten
from tests.root.scene import SERVERS, Outcome, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 600)]

HALF = "7102"
GREETING = 100_000
MOVES = 21
"""Odd: the new server has the rest."""
FIN = 1


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    for scene in stage(tmp_path_factory):
        if scene is not None:
            serve(scene, "half_closed.py", "--port", HALF)
        yield scene


def fins_of_client(scene: Scene, connection: str) -> int:
    packets = scene.evidence["client"]
    port = int(connection.split(":")[1])
    return int(((packets["flags"] & FIN != 0) & (packets["sport"] == port)).sum())


def moves_of_client(scene: Scene, name: str, arguments: list[str], count: int, seed: int) -> tuple[str, list[Outcome]]:
    with scene.watched(name):
        client = scene.client(sys.executable, CLIENTS / "half_closed.py", SERVERS[0], *arguments)
        [connection] = scene.wait_for_connections()
        if "write" in arguments:
            assert client.line() == "ended"
        outcomes = scene.moves(connection, count, seed)
        assert client.runs, "the client ended before the moves did: make the transfer longer"
        client.result()
        wait_until_forgotten(scene, connection)
    scene.judge(connection, outcomes)
    return connection, outcomes


@pytest.mark.parametrize("pace", ["4000 2000", "65536 0"], ids=["paced", "full"])
def test_the_client_has_ended_and_the_server_has_not_looked(scene: Scene, pace: str) -> None:
    """As `nc -N`: the FIN waits in the receive queue, behind nothing."""
    total = "4000000" if pace.startswith("4000") else "50000000"
    arguments = [STREAM, "read", f"DOWN {total} {pace}", total]
    connection, _ = moves_of_client(scene, "unread-fin", arguments, MOVES, seed=1)
    assert fins_of_client(scene, connection) == 1, "the client has had to repeat its FIN"


@pytest.mark.parametrize("pace", ["2000", "0"], ids=["paced", "full"])
def test_the_client_has_ended_and_the_server_has_read_that(scene: Scene, pace: str) -> None:
    total = "4000000" if pace != "0" else "50000000"
    arguments = [HALF, "read", f"AFTER {total} {pace}", total]
    moves_of_client(scene, "read-fin", arguments, MOVES, seed=2)


@pytest.mark.parametrize("pace", ["2000", "0"], ids=["paced", "full"])
def test_the_server_has_ended_and_exports_afterwards(scene: Scene, pace: str) -> None:
    """The agent of the new server ends the stream again; the application does not."""
    total = 4_000_001 if pace != "0" else 50_000_001
    arguments = [HALF, "write", f"ENDED {total} 200000", str(total), str(GREETING), pace]
    moves_of_client(scene, "ended", arguments, MOVES, seed=3)
    assert_taken(scene, total)


def test_the_server_has_ended_and_never_exports(scene: Scene) -> None:
    """The application writes all of its stream again and ends it again; the client has both already."""
    total = 900_001
    arguments = [HALF, "write", f"ENDED {total} 2000000", str(total), str(GREETING), "10000"]
    moves_of_client(scene, "never-exported", arguments, MOVES, seed=4)
    assert_taken(scene, total)


def assert_taken(scene: Scene, total: int) -> None:
    """One server, and no more, has taken everything."""
    logs = [p for p in scene.programs if "half_closed" in str(p.log)]
    wait_until(lambda: any(f"taken {total}" in p.output() for p in logs), "the server has taken all")
    assert sum(p.output().count(f"taken {total}") for p in logs) == 1
    assert not any("bad" in p.output() for p in logs), [p.output() for p in logs]


def test_both_have_ended_while_data_is_in_flight(scene: Scene) -> None:
    total = 40_000_000
    with scene.watched("both"):
        arguments = [SERVERS[0], HALF, "read", f"BOTH {total}", str(total)]
        client = scene.client(sys.executable, CLIENTS / "half_closed.py", *arguments)
        [connection] = scene.wait_for_connections()
        outcomes = []
        for _ in range(MOVES):
            outcomes.append(scene.move(connection))
            time.sleep(0.01)
        client.result()
    scene.judge(connection, outcomes)


def test_an_end_in_mid_move(scene: Scene) -> None:
    """The streams end at random instants around moves."""
    for seed in range(10):
        total = str(400_000 * (1 + seed))
        with scene.watched(f"around-{seed}"):
            arguments = [HALF, "read", f"AFTER {total} 1000", total]
            client = scene.client(sys.executable, CLIENTS / "half_closed.py", SERVERS[0], *arguments)
            [connection] = scene.wait_for_connections()
            outcomes = scene.moves(connection, 5, seed, pause=(0.0, 0.002))
            client.result()
            wait_until_forgotten(scene, connection)
        scene.judge(connection, outcomes)
    assert not held(scene.net.s1) and not held(scene.net.s2)
