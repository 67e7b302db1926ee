"""Streams of more than 4 GiB: every sequence number comes by, and wraps, while the connection moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtcp.errors import MtcpError
from testbed import sandbox
from testbed.strict import compile_strict
from tests.root.corners import FORGOTTEN, STREAM, stage
from tests.root.scene import SERVERS, Outcome, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(180 if sandbox.inside() else 600)]

TOTAL = (1 << 32) + 200_000_000


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    yield from stage(tmp_path_factory, bw=None)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


def move(scene: Scene, connection: str) -> Outcome | None:
    """None when the connection has ended."""
    row = scene.connections().get(connection)
    if row is None:
        return None
    current = row["current"].split(":")[0]
    try:
        outcome = scene.move(connection, SERVERS[current == SERVERS[0]])
    except MtcpError:
        outcome = {"outcome": "kept"}
    if outcome["outcome"] == "kept":
        # The server's end may be gone while the client's kernel still waits for the last acknowledgement.
        deadline = time.monotonic() + FORGOTTEN
        while connection in scene.connections():
            assert time.monotonic() < deadline, f"it goes on, and did not move: {outcome}\n{scene.sockets()}"
            time.sleep(0.01)
        return None
    return outcome


@pytest.mark.parametrize("mode", ["recv", "upload"])
def test_the_sequence_numbers_wrap(scene: Scene, strict: Path, mode: str) -> None:
    with scene.watched(mode):
        client = scene.client(strict, "-c", "1000000", mode, SERVERS[0], STREAM, str(TOTAL))
        [connection] = scene.wait_for_connections()
        outcomes: list[Outcome] = []
        while (outcome := move(scene, connection)) is not None:
            outcomes.append(outcome)
            time.sleep(0.05)
        client.strict()
    seen = scene.judge(connection, outcomes)
    assert sum(seen.payload.values()) > 1 << 32
    assert len(outcomes) >= 20, f"{len(outcomes)} moves"
