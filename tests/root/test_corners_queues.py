"""Full queues and shut windows, at both ends: everything is in the kernels when the connection moves."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.processes import checked
from testbed.strict import compile_strict
from tests.root.corners import CLIENTS, STREAM, serve, stage, wait_until
from tests.root.scene import SERVERS, UNTIL_TOLD, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(100 if sandbox.inside() else 900)]

BULK = "7106"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    for scene in stage(tmp_path_factory):
        if scene is not None:
            serve(scene, "bulk.py", "--port", BULK)
        yield scene


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


def queued(scene: Scene, host: str, connection: str) -> int:
    """Bytes in the send queue of the server `host`, or of the client."""
    node, side = getattr(scene.net, host), "sport" if host == "client" else "dport"
    lines = checked(node, "ss", "-tnH", side, "=", f":{connection.split(':')[1]}").splitlines()
    return max((int(line.split()[2]) for line in lines), default=0)


def wait_until_stuck(scene: Scene, host: str, connection: str, at_least: int) -> int:
    """Wait until the queue has grown to what it will be."""
    sizes = [0]

    def stuck() -> bool:
        sizes.append(queued(scene, host, connection))
        return sizes[-1] >= at_least and len(sizes) > 20 and len(set(sizes[-20:])) == 1

    wait_until(stuck, f"{at_least} bytes queued", 30)
    return sizes[-1]


@pytest.mark.parametrize("every", [200 * MEGABYTE, 1 << 16], ids=["never-exported", "exported"])
def test_tens_of_megabytes_are_queued_at_the_server(scene: Scene, every: int) -> None:
    """Not exported, they are written again by the new server; exported, they travel."""
    total = 60 * MEGABYTE
    with scene.watched("queued"):
        arguments = [SERVERS[0], BULK, f"{total} {every} {40 * MEGABYTE}", str(total)]
        client = scene.client(sys.executable, CLIENTS / "gated.py", *arguments)
        [connection] = scene.wait_for_connections()
        outcomes = []
        for host in ("s1", "s2", "s1"):
            assert wait_until_stuck(scene, host, connection, 20 * MEGABYTE) > 20 * MEGABYTE
            outcomes.append(scene.move(connection))
        client.tell()
        client.result()
    scene.judge(connection, outcomes)


def test_more_is_exported_than_travels(scene: Scene) -> None:
    """It is refused, and goes on where it is; when the queue has drained, it moves."""
    total = 200 * MEGABYTE
    with scene.watched("too-large"):
        arguments = [SERVERS[0], BULK, f"{total} 65536 {200 * MEGABYTE}", str(total), str(30 * MEGABYTE)]
        client = scene.client(sys.executable, CLIENTS / "gated.py", *arguments)
        [connection] = scene.wait_for_connections()
        wait_until_stuck(scene, "s1", connection, 70 * MEGABYTE)
        outcome = scene.move(connection)
        assert outcome["outcome"] == "kept" and outcome["reason"].startswith("TOO_LARGE"), outcome
        client.tell()
        wait_until(lambda: queued(scene, "s1", connection) < 40 * MEGABYTE, "the queue has drained", 30)
        outcomes = [scene.move(connection)]
        client.tell()
        client.result()
    scene.judge(connection, outcomes)


def test_a_window_shut_for_long_by_the_client(scene: Scene, strict: Path) -> None:
    """The servers probe it, ever more seldom: the new one is not told when it opens, unless it goes on probing."""
    with scene.watched("shut"):
        client = scene.client(strict, "-g", "recv", SERVERS[0], STREAM, str(30 * MEGABYTE))
        [connection] = scene.wait_for_connections()
        wait_until_stuck(scene, "s1", connection, 1)
        time.sleep(1)  # for the persist timer's sake
        outcomes = scene.moves(connection, 5, seed=1, pause=(0.0, 0.3))
        client.tell()
        client.strict()
    scene.judge(connection, outcomes)


def test_a_window_shut_by_servers_that_do_not_read(scene: Scene, strict: Path) -> None:
    stopped = [p.process for p in scene.programs if "stream" in str(p.log)]
    with scene.watched("unread"):
        client = scene.client(strict, "-c", "300000", "upload", SERVERS[0], STREAM, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        try:
            wait_until_stuck(scene, "client", connection, 1)
            outcomes = scene.moves(connection, 5, seed=2, pause=(0.0, 0.3))
        finally:
            for process in stopped:
                process.send_signal(signal.SIGCONT)
        client.tell()
        client.strict()
    scene.judge(connection, outcomes)


def test_right_after_the_first_byte(scene: Scene, strict: Path) -> None:
    """In slow start, with one window in flight."""
    connections, outcomes = [], []
    with scene.watched("first"):
        for _ in range(10):
            scene.known = frozenset(scene.connections())
            client = scene.client(strict, "recv", SERVERS[0], STREAM, UNTIL_TOLD)
            [connection] = scene.wait_for_connections()
            connections.append(connection)
            outcomes.append(scene.move(connection))
            client.tell()
            client.strict()
    for connection, outcome in zip(connections, outcomes, strict=True):
        assert outcome["outcome"] == "moved", outcome
        seen = scene.seen(connection)
        assert (seen.handshakes, seen.resets) == (1, 0), seen
