"""Connections that are half closed move: the end of a stream is read once, after all of its bytes."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from tests.root.corners import CLIENTS, held, move_until_it_ends, serve, stage, wait_until_forgotten
from tests.root.scene import SERVERS, UNTIL_TOLD, ClientProgram, Scene

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


@contextlib.contextmanager
def moved(scene: Scene, name: str, arguments: list[str], seed: int) -> Iterator[tuple[ClientProgram, str]]:
    """A client that moves, and ends with the block."""
    with scene.watched(name):
        client = scene.client(sys.executable, CLIENTS / "half_closed.py", SERVERS[0], HALF, *arguments)
        [connection] = scene.wait_for_connections()
        if "write" in arguments:
            assert client.line() == "ended"
        outcomes = scene.moves(connection, MOVES, seed)
        yield client, connection
        wait_until_forgotten(scene, connection)
    scene.judge(connection, outcomes)


def read_until_told(scene: Scene, directory: Path, what: str, pace: str, seed: int) -> str:
    """The client's stream has ended: a file tells the server. The connection."""
    enough = directory / "enough"
    with moved(scene, what, ["read", f"{what} {enough} {pace}", UNTIL_TOLD], seed) as (client, connection):
        enough.touch()
        client.result()
    return connection


@pytest.mark.parametrize("pace", ["2000", "0"], ids=["paced", "full"])
def test_the_client_has_ended_and_the_server_has_not_looked(scene: Scene, tmp_path: Path, pace: str) -> None:
    """As `nc -N`: the FIN waits in the receive queue, behind nothing."""
    connection = read_until_told(scene, tmp_path, "UNREAD", pace, seed=1)
    assert fins_of_client(scene, connection) == 1, "the client has had to repeat its FIN"


@pytest.mark.parametrize("pace", ["2000", "0"], ids=["paced", "full"])
def test_the_client_has_ended_and_the_server_has_read_that(scene: Scene, tmp_path: Path, pace: str) -> None:
    read_until_told(scene, tmp_path, "AFTER", pace, seed=2)


@pytest.mark.parametrize("chunk", ["4000 2000", "1000000 0"], ids=["paced", "full"])
def test_the_server_has_ended_and_exports_afterwards(scene: Scene, chunk: str) -> None:
    """The agent of the new server ends the stream again; the application does not."""
    write_until_told(scene, "200000", *chunk.split(), seed=3)


def test_the_server_has_ended_and_never_exports(scene: Scene) -> None:
    """The application writes all of its stream again and ends it again; the client has both already."""
    # All that is not exported must fit into the read log, 1 MB.
    write_until_told(scene, "2000000", "200", "10000", seed=4)


def write_until_told(scene: Scene, export_every: str, size: str, interval_us: str, seed: int) -> None:
    """One server, and no more, has taken everything."""
    arguments = ["write", f"ENDED {export_every}", size, str(GREETING), interval_us]
    logs = [p for p in scene.programs if "half_closed" in str(p.log)]
    before = [p.output() for p in logs]
    with moved(scene, f"write-{size}", arguments, seed) as (client, _):
        client.tell()
        total = client.result()
    said = [p.output().removeprefix(was) for p, was in zip(logs, before, strict=True)]
    assert sorted(said) == ["", f"taken {total}\n"]


def test_both_have_ended_while_data_is_in_flight(scene: Scene) -> None:
    total = "40000000"
    with moved(scene, "both", ["read", f"BOTH {total}", total, "20000000"], seed=5) as (client, _):
        client.tell()
        client.result()


def test_an_end_in_mid_move(scene: Scene, tmp_path: Path) -> None:
    """The streams end at random instants around moves."""
    moves = 0
    for seed in range(10):
        enough = tmp_path / str(seed)
        with scene.watched(f"around-{seed}"):
            arguments = [HALF, "read", f"AFTER {enough} 100", UNTIL_TOLD]
            client = scene.client(sys.executable, CLIENTS / "half_closed.py", SERVERS[0], *arguments)
            [connection] = scene.wait_for_connections()
            enough.touch()  # and then up to a PERIOD more
            outcomes = move_until_it_ends(scene, connection, random.Random(seed), 0.002)
            moves += sum(outcome["outcome"] == "moved" for outcome in outcomes)
            client.result()
            wait_until_forgotten(scene, connection)
        seen = scene.seen(connection)
        assert (seen.handshakes, seen.resets) == (1, 0), seen
    assert moves
    assert not held(scene.net.s1) and not held(scene.net.s2)
