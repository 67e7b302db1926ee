"""Applications end their connection while it moves: the other side sees what plain TCP shows, and nothing is left."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from mtcp.errors import MtcpError
from testbed import sandbox
from tests.root.corners import CLIENTS, STREAM, held, move_until_it_ends, serve, stage, wait_until, wait_until_forgotten
from tests.root.scene import SERVERS, ClientProgram, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(100 if sandbox.inside() else 900)]

ENDING = "7105"
TOTAL = 20_000_000
"""Takes 0.4 s; ends come before."""
SEEDS = range(6)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    for scene in stage(tmp_path_factory):
        if scene is not None:
            serve(scene, "ending.py", "--port", ENDING)
        yield scene


def start(scene: Scene, *arguments: str) -> tuple[ClientProgram, str]:
    scene.known = frozenset(scene.connections())
    client = scene.client(sys.executable, CLIENTS / "to_the_end.py", SERVERS[0], *arguments)
    assert client.line() == "asked"
    [connection] = scene.wait_for_connections()
    return client, connection


def nothing_is_left(scene: Scene, connection: str) -> None:
    wait_until_forgotten(scene, connection)
    children = [p for p in scene.programs if "ending" in str(p.log)]
    for program in children:
        pid = program.process.pid
        path = f"/proc/{pid}/task/{pid}/children"
        wait_until(lambda path=path: not open(path).read(), "the server's processes have ended")  # noqa: SIM115, PTH123


@pytest.mark.parametrize("manner", ["close", "exit", "kill"])
def test_the_server_ends_a_download(scene: Scene, manner: str) -> None:
    """The client reads a part and its end, or all, if another server had it by then. After a kill always all."""
    connections = []
    with scene.watched(manner):
        for seed in SEEDS:
            instants = random.Random(seed)
            request = f"{manner} {instants.randrange(5, 100)} DOWN {TOTAL} 65536 0"
            client, connection = start(scene, ENDING, "read", request, str(TOTAL))
            move_until_it_ends(scene, connection, instants, 0.02)
            offset, how = client.result().split()[-2:]
            assert how == "end" and (int(offset) == TOTAL or manner != "kill"), (seed, offset, how)
            nothing_is_left(scene, connection)
            connections.append(connection)
    for connection in connections:
        seen = scene.seen(connection)
        assert (seen.handshakes, seen.resets) == (1, 0), seen


@pytest.mark.parametrize("manner", ["close", "exit"])
def test_the_server_ends_an_upload(scene: Scene, manner: str) -> None:
    """Data that is not read: a reset, as of any TCP."""
    for seed in SEEDS:
        instants = random.Random(seed)
        request = f"{manner} {instants.randrange(5, 100)} UP {TOTAL}"
        client, connection = start(scene, ENDING, "write", request, str(TOTAL))
        move_until_it_ends(scene, connection, instants, 0.02)
        offset, how = client.result().split()[-2:]
        assert how == "reset" or int(offset) == TOTAL, (seed, offset, how)
        nothing_is_left(scene, connection)


@pytest.mark.parametrize("what", ["read", "write"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_client_ends(scene: Scene, what: str, number: signal.Signals) -> None:
    """With data unread, and so a reset, which may come in mid-move and be the only one."""
    for seed in SEEDS:
        instants = random.Random(seed)
        request = f"DOWN {TOTAL} 65536 0" if what == "read" else f"UP {TOTAL}"
        client, connection = start(scene, STREAM, what, request, str(TOTAL))
        future = scene.asking({"op": "migrate", "connection": connection, "to": SERVERS[1]})
        time.sleep(instants.uniform(0.0, 0.008))
        client.process.send_signal(number)
        client.process.wait(10)
        assert future.exception(20) is None or isinstance(future.exception(), MtcpError)
        nothing_is_left(scene, connection)


def test_nothing_is_left_at_all(scene: Scene) -> None:
    for host in (scene.net.s1, scene.net.s2):
        assert not held(host)
    for name, program in scene.net.pool.programs.items():
        assert "Traceback" not in program.output(), f"{name}: {program.output()[-2000:]}"
