"""Servers that fork: closing in one process ends nothing that another still uses."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.processes import checked
from testbed.strict import compile_strict
from tests.root.corners import held, serve, stage, wait_until, wait_until_forgotten
from tests.root.scene import SERVERS, UNTIL_TOLD, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 600)]

FORKING = "7101"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    for scene in stage(tmp_path_factory):
        if scene is not None:
            serve(scene, "forking.py", "--port", FORKING)
        yield scene


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


@pytest.mark.parametrize("mode", ["recv", "upload", "threads"])
def test_a_process_per_connection(scene: Scene, strict: Path, mode: str) -> None:
    with scene.watched(f"fork-{mode}"):
        client = scene.client(strict, mode, SERVERS[0], FORKING, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, 10, seed=1)
        client.tell()
        client.strict()
        wait_until_forgotten(scene, connection)
    scene.judge(connection, outcomes)


def test_two_connections_of_one_client(scene: Scene, strict: Path) -> None:
    """Each of the server's processes has had a copy of the other's connection."""
    with scene.watched("fork-two"):
        client = scene.client(strict, "-n", "2", "recv", SERVERS[0], FORKING, UNTIL_TOLD)
        both = scene.wait_for_connections(2)
        outcomes = {connection: scene.moves(connection, 5, seed=2) for connection in both}
        client.tell()
        client.strict()
        for connection in both:
            wait_until_forgotten(scene, connection)
    for connection in both:
        scene.judge(connection, outcomes[connection], connections=2)


def test_moves_although_the_child_that_had_it_was_killed(scene: Scene, strict: Path) -> None:
    """Its parent lives, and has the same channel to the agent: it is the child's death that counts."""
    with scene.watched("fork-killed"):
        client = scene.client(strict, "upload", SERVERS[0], FORKING, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        parent = next(p for p in scene.programs if "forking" in str(p.log) and p.name.endswith("s1")).process
        [child] = checked(scene.net.s1, "pgrep", "-P", str(parent.pid)).split()
        checked(scene.net.s1, "kill", f"-{signal.SIGKILL.value}", child)
        outcomes = [scene.move(connection, SERVERS[1])]
        client.tell()
        client.strict()
        wait_until_forgotten(scene, connection)
    scene.judge(connection, outcomes)
    wait_until(lambda: not held(scene.net.s1), "nothing is left at S1")
