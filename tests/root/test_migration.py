"""Live connections of unmodified programs move back and forth: every byte right, nothing noticed, captures agree."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mtcp.errors import MtcpError
from testbed import sandbox
from testbed.strict import compile_strict
from tests.root.scene import SERVERS, Outcome, Scene, Seen, enter_network_of
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 600)]

SEED = int(os.environ.get("MTCP_TEST_SEED", "1"))
MBITS = 400
PER_SECOND = MBITS * 125_000
MOVES = 20
STREAM, COUNTER, ASYNC = "7001", "7002", "7003"
CLIENTS = Path(__file__).parents[1] / "clients"
MEASURED = os.environ.get("MTCP_TEST_FIGURES")
"""File to which the figures of each connection are appended, as JSON lines."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("scene")
    with running(bw=MBITS, big=50_000_000, logs=directory) as net:
        commands = ThreadPoolExecutor(1, initializer=enter_network_of, initargs=(net.client.pid,))
        scene = Scene(net, directory, commands)
        scene.service("stream", "--port", STREAM)
        scene.service("stream", "--port", ASYNC, "--asyncio")
        scene.service("counter", "--port", COUNTER)
        yield scene
        for program in scene.programs:
            program.stop()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


def note(test: str, seen: Seen, outcomes: list[Outcome], **figures: float) -> None:
    if MEASURED:
        moved = sorted((o["committed_ns"] - o["decided_ns"]) / 1e6 for o in outcomes)
        row = {"test": test, "moves": len(moved), "gap_ms": seen.max_gap_ms, "commit_ms": moved, **figures}
        with Path(MEASURED).open("a") as file:
            file.write(json.dumps(row) + "\n")


@pytest.mark.parametrize("port", [STREAM, ASYNC], ids=["threads", "asyncio"])
@pytest.mark.parametrize("mode", ["recv", "waitall", "timeout", "poll", "select", "epoll", "epoll-et"])
def test_download(scene: Scene, strict: Path, mode: str, port: str) -> None:
    with scene.watched("download"):
        client = scene.client(strict, mode, SERVERS[0], port, str(PER_SECOND))
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        assert client.runs, "the client ended before the moves did: make the download longer"
        report = client.strict()
    seen = scene.judge(connection, outcomes)
    note(f"download-{mode}-{port}", seen, outcomes, client_gap_ms=report["max_gap_ms"])
