"""The wire of docs/wire.md spoken by another language: docs/examples/counter.c serves together with the Python counter.

Each test has another pair of programs on S1 and S2. Of the C program there are two builds: as its head says, and with
the compiler's sanitizers, which end it at once when it uses memory that is not its own, and leaks nothing.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import sandbox
from testbed.processes import Program, checked
from tests.examples import compile_counter
from tests.root.corners import CLIENTS, MBITS, wait_until, wait_until_forgotten
from tests.root.restarts import capsules, kill, start, wait_until_held
from tests.root.scene import SERVERS, UNTIL_TOLD, Outcome, Scene
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(120 if sandbox.inside() else 1800)]
SEED = 1
MOVES = 20
PAIRS = {
    "c-python": 7201, "python-c": 7202, "c-c": 7203,
    "checked-python": 7204, "python-checked": 7205, "checked-checked": 7206,
}  # fmt: skip
"""Programs on S1 and S2, and the port where they are."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str | Path]]:
    """Commands, without the port."""
    directory = tmp_path_factory.mktemp("counter")
    return {
        "python": [sys.executable, "-m", "testbed.services.counter", "--port"],
        "c": [compile_counter(directory / "counter", "-O2")],
        "checked": [compile_counter(directory / "checked", "-O1", "-g", "-fsanitize=address,undefined")],
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, programs: dict[str, list[str | Path]]) -> Iterator[Scene | None]:
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("scene")
    with running(bw=MBITS, big=1_000_000, logs=directory) as net, Scene.of(net, directory) as scene:
        for pair, port in PAIRS.items():
            for host, name in zip((net.s1, net.s2), pair.split("-"), strict=True):
                serve(scene, host, programs[name], port)
        yield scene


def serve(scene: Scene, host: Any, command: list[str | Path], port: int) -> Program:
    program = Program(host, [*command, str(port)], scene.directory / f"counter-{port}-{host}.log")
    scene.programs.append(program)
    program.wait_for("listening")
    return program


@pytest.mark.parametrize("pair", PAIRS)
def test_every_byte_is_counted_once(scene: Scene, pair: str) -> None:
    with scene.watched(pair):
        port = str(PAIRS[pair])
        client = scene.client(sys.executable, CLIENTS / "counting.py", SERVERS[0], port, UNTIL_TOLD, str(SEED))
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        client.result()
    scene.judge(connection, outcomes)


@pytest.mark.parametrize("pair", PAIRS)
def test_moves_while_it_writes(scene: Scene, pair: str) -> None:
    """It is stopped in the middle of its output, and its input has piled up; then all flows, and it moves on."""
    with scene.watched(f"{pair}-flood"):
        client = scene.client(sys.executable, CLIENTS / "flooding.py", SERVERS[0], str(PAIRS[pair]))
        [connection] = scene.wait_for_connections()
        wait_until(lambda: is_stopped(scene.net.s1, connection), "the client's window is shut")
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        outcomes += scene.moves(connection, MOVES, SEED)
        client.tell()
        client.result()
    scene.judge(connection, outcomes)


@pytest.mark.parametrize("pair", PAIRS)
def test_idle_connection_moves_and_is_then_used(scene: Scene, pair: str) -> None:
    """The client has the answer to all that it sent: the next server writes it again, and swallows it."""
    with scene.watched(f"{pair}-idle"):
        client = scene.client(sys.executable, CLIENTS / "lines.py", SERVERS[0], str(PAIRS[pair]))
        [connection] = scene.wait_for_connections()
        outcomes: list[Outcome] = []
        for turn in range(10):
            outcomes += scene.moves(connection, turn % 3, SEED + turn)
            client.tell()
            assert client.line() == f"{turn + 1}"
        client.result()
    scene.judge(connection, outcomes)


@pytest.mark.parametrize("pair", PAIRS)
def test_agents_begin_anew(scene: Scene, pair: str) -> None:
    """The program finds the next agent by itself, with its connections and for those to come."""
    port = str(PAIRS[pair])
    with scene.watched(f"{pair}-anew"):
        client = scene.client(sys.executable, CLIENTS / "counting.py", SERVERS[0], port, UNTIL_TOLD, str(SEED))
        [connection] = scene.wait_for_connections()
        outcomes: list[Outcome] = []
        for host in (scene.net.s1, scene.net.s2):
            kill(scene, host)
            start(scene, host)
            wait_until_held(scene.net.s1, connection)
            wait_until(lambda: scene.move(connection, SERVERS[1])["outcome"] == "moved", "S2 takes it")
            outcomes.append(scene.move(connection, SERVERS[0]))
        outcomes += scene.moves(connection, 3, SEED)
        client.tell()
        client.result()
    scene.judge(connection, outcomes)


def test_nothing_is_left_of_connections_that_ended(scene: Scene, programs: dict[str, list[str | Path]]) -> None:
    """Neither memory, which the sanitizers look at when it ends, nor descriptors, mappings and threads before that."""
    both = [serve(scene, host, programs["checked"], 7210) for host in (scene.net.s1, scene.net.s2)]
    before = [used(program) for program in both]
    for round_ in range(5):
        with scene.watched(f"leak-{round_}"):
            client = scene.client(sys.executable, CLIENTS / "counting.py", SERVERS[0], "7210", UNTIL_TOLD, str(round_))
            [connection] = scene.wait_for_connections()
            outcomes = scene.moves(connection, 5, round_)
            client.tell()
            client.result()
        scene.judge(connection, outcomes)
        wait_until_forgotten(scene, connection)
    for program, was in zip(both, before, strict=True):
        assert capsules(program) == 0
        wait_until(lambda program=program, was=was: used(program) == was, f"{was}, is {used(program)}")
        assert program.stop(signal.SIGTERM, 20) == 0, program.output()
        assert program.output() == "listening\n"


def used(program: Program) -> dict[str, int]:
    """Descriptors and threads of a process."""
    directory = Path(f"/proc/{program.process.pid}")
    return {what: len(list((directory / what).iterdir())) for what in ("fd", "task")}


def is_stopped(host: Any, connection: str) -> bool:
    """Whether the host has output for the client that it may not send, and that has not changed for a moment."""

    def queues() -> list[str]:
        return checked(host, "ss", "-tnH", "dst", connection).split()[1:3]

    before = queues()
    time.sleep(0.1)
    return before == queues() and all(int(queue) > 0 for queue in before) and len(before) == 2
