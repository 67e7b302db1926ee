"""Moves over links that lose packets: those of the connection, and those of the moves."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.processes import checked
from testbed.strict import compile_strict
from tests.root.corners import STREAM, stage
from tests.root.scene import SERVERS, UNTIL_TOLD, Scene
from tests.traces import eventually

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(100 if sandbox.inside() else 900)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    yield from stage(tmp_path_factory, bw=None)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


@contextlib.contextmanager
def losing(scene: Scene, percent: int) -> Iterator[Callable[[], int]]:
    """Every link of the service network loses so much, each way: on its way out of the switch, and thus unseen there.

    How many packets have been lost.

    At the hosts it would be too late: their programs and agents see a packet before netfilter does.
    """
    switch = scene.net.net["sw1"]
    ports = [name for name in switch.intfNames() if name != "lo"]
    checked(switch, "nft", "add table netdev loss")
    for port in ports:
        chain = f"{{ type filter hook egress device {port} priority 0 ; }}"
        checked(switch, "nft", f"add chain netdev loss {port} {chain}")
        checked(switch, "nft", f"add rule netdev loss {port} numgen random mod 100 < {percent} counter drop")
    try:
        yield lambda: sum(map(int, re.findall(r"packets (\d+)", checked(switch, "nft", "list table netdev loss"))))
    finally:
        checked(switch, "nft", "delete table netdev loss")


@pytest.mark.parametrize("percent", [1, 5])
@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "4000", "-i", "2000", "recv"],
        ["-c", "4000", "-i", "2000", "upload"],
        ["-c", "60000", "-i", "2000", "recv"],
        ["-c", "60000", "-i", "2000", "upload"],
        ["-c", "60000", "-i", "2000", "threads"],
    ],
    ids=["thin-download", "thin-upload", "download", "upload", "echo"],
)
def test_loss(scene: Scene, strict: Path, arguments: list[str], percent: int) -> None:
    with scene.watched("loss"), losing(scene, percent) as lost:
        client = scene.client(strict, *arguments, SERVERS[0], STREAM, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, 5, seed=percent)
        assert eventually(lambda: lost() > 0)  # which takes some hundred packets
        client.tell()
        client.strict()
    scene.judge(connection, outcomes)
