"""What soaks under loss have found, each in the smallest form that shows it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.nodes import MtcpHost
from testbed.processes import checked
from testbed.strict import compile_strict
from tests.root.scene import SERVERS, Scene
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 200)]

STREAM = "7001"
ACK3 = 4


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("scene")
    with running(bw=400, big=1000, logs=directory) as net, Scene.of(net, directory) as scene:
        scene.service("stream", "--port", STREAM)
        yield scene


@contextmanager
def losing(host: MtcpHost, subtype: int) -> Iterator[None]:
    """Drop the host's outgoing control segments of this subtype."""
    table = f"{{ type filter hook egress device {host.defaultIntf().name} priority 0 ; }}"
    option = ["@th,160,8", "0xfd", "@th,176,16", "0x4d54", "@th,192,4", str(subtype)]
    checked(host, "nft", "add", "table", "netdev", "losing")
    checked(host, "nft", "add", "chain", "netdev", "losing", "egress", table)
    checked(host, "nft", "add", "rule", "netdev", "losing", "egress", *option, "counter", "drop")
    try:
        yield
    finally:
        checked(host, "nft", "delete", "table", "netdev", "losing")


def test_both_servers_let_go_when_the_client_closes_and_its_ack3_is_lost(scene: Scene, tmp_path: Path) -> None:
    """The new server's application closes, too, before its agent has looked whether the client was heard."""
    client = scene.client(compile_strict(tmp_path), "turns", SERVERS[0], STREAM, "1000")
    [connection] = scene.wait_for_connections()
    client.tell()
    assert client.line() == "turn"
    with losing(scene.net.client, ACK3):
        assert scene.move(connection, SERVERS[1])["outcome"] == "moved"
        client.tell()
        assert client.line() == "turn"
        assert client.process.stdin is not None
        client.process.stdin.close()
        client.process.wait(10)
        deadline = time.monotonic() + 5
        while rows := [row for host in scene.net.servers for row in _rows(host) if row["connection"] == connection]:
            assert time.monotonic() < deadline, rows
            time.sleep(0.1)


def _rows(host: MtcpHost) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(checked(host, "mtcp", "ls", "--json"))
    return rows
