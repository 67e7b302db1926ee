"""Clients out of the ordinary: several at once, processes that share a socket, io_uring."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.strict import compile_strict
from tests.root.corners import CLIENTS, STREAM, stage
from tests.root.scene import SERVERS, UNTIL_TOLD, Outcome, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 600)]

PROCESSES = 6
EACH_WAY = "2000000"
"""Bytes, before reader and writer change places."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    yield from stage(tmp_path_factory)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


@pytest.fixture(scope="module")
def uring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("uring") / "uring"
    command = ["gcc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(program), str(CLIENTS / "uring.c")]
    subprocess.run(command, check=True)
    return program


def test_several_processes_at_once(scene: Scene, strict: Path) -> None:
    modes = ["recv", "upload", "threads", "epoll-et", "recv", "upload"]
    with scene.watched("several"):
        clients = [scene.client(strict, mode, SERVERS[0], STREAM, UNTIL_TOLD) for mode in modes]
        connections = scene.wait_for_connections(PROCESSES)
        outcomes: dict[str, list[Outcome]] = {connection: [] for connection in connections}
        for _ in range(5):
            targets = {c: scene.other_server(c) for c in connections}
            futures = {c: scene.asking({"op": "migrate", "connection": c, "to": targets[c]}) for c in connections}
            for connection, future in futures.items():
                outcomes[connection].append(future.result(30))
            time.sleep(0.01)
        for client in clients:
            client.tell()
        for client in clients:
            client.strict()
    for connection in connections:
        scene.judge(connection, outcomes[connection], connections=PROCESSES)


def test_a_socket_of_two_processes(scene: Scene) -> None:
    with scene.watched("forked"):
        client = scene.client(sys.executable, CLIENTS / "forked.py", SERVERS[0], STREAM, EACH_WAY)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, 20, seed=1)
        client.tell()
        client.result()
    scene.judge(connection, outcomes)


def test_io_uring(scene: Scene, uring: Path) -> None:
    with scene.watched("uring"):
        client = scene.client(uring, SERVERS[0], STREAM)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, 20, seed=1)
        client.tell()
        client.result()
    scene.judge(connection, outcomes)
