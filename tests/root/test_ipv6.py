"""Connections over IPv6, and IPv4 ones of IPv6 sockets, move as those over IPv4 do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.strict import compile_strict
from tests.root.scene import SERVERS, SERVERS6, UNTIL_TOLD, Scene
from tests.root.test_migration import HELD, digest
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 300)]

MBITS = 400
MOVES = 20
STREAM, ASYNC = "7001", "7003"
CLIENTS = Path(__file__).parents[1] / "clients"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("scene")
    with running(bw=MBITS, big=50_000_000, logs=directory) as net, Scene.of(net, directory) as scene:
        scene.service("stream", "--port", STREAM)
        scene.service("stream", "--port", ASYNC, "--asyncio")
        yield scene


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


def test_curl(scene: Scene) -> None:
    with scene.watched("curl"):
        client = scene.client("curl", "-6", "-sS", f"http://[{SERVERS6[0]}]/big")
        output = client.digest(held=HELD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, seed=1)
        client.tell()
        assert output.result(40) == digest((scene.net.directory / "big").read_bytes())
    assert connection.startswith("[fd00::100]:")
    scene.judge(connection, outcomes)


@pytest.mark.parametrize("port", [STREAM, ASYNC], ids=["threads", "asyncio"])
@pytest.mark.parametrize("mode", ["recv", "epoll-et", "upload", "threads"])
@pytest.mark.parametrize("server", [SERVERS6[0], f"::ffff:{SERVERS[0]}"], ids=["ipv6", "mapped"])
def test_streams(scene: Scene, strict: Path, server: str, mode: str, port: str) -> None:
    with scene.watched(mode):
        client = scene.client(strict, mode, server, port, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, seed=2)
        client.tell()
        client.strict()
    assert connection.startswith("10.0.0.100:" if "ffff" in server else "[fd00::100]:")
    scene.judge(connection, outcomes)


def test_asyncio_client(scene: Scene) -> None:
    with scene.watched("asyncio"):
        client = scene.client(sys.executable, CLIENTS / "asyncio_download.py", SERVERS6[1], STREAM)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, seed=3)
        client.tell()
        client.result()
    scene.judge(connection, outcomes)


def test_drain(scene: Scene) -> None:
    """The server names another one by its IPv6 address to the client of an IPv6 connection."""
    with scene.watched("drain"):
        clients = [scene.client("curl", "-6", "-sS", f"http://[{SERVERS6[0]}]/big") for _ in range(2)]
        clients.append(scene.client("curl", "-4", "-sS", f"http://{SERVERS[0]}/big"))
        digests = [client.digest(held=HELD) for client in clients]
        scene.wait_for_connections(3)
        drain = scene.net.s1.popen(["mtcp", "drain", "--to", "s2", "--json"], text=True, stdout=-1)
        out, _ = drain.communicate(timeout=20)
        assert drain.returncode == 0, out
        assert json.loads(out) == {"moved": 3, "stayed": 0, "why": []}
        for client in clients:
            client.tell()
        content = digest((scene.net.directory / "big").read_bytes())
        assert {output.result(40) for output in digests} == {content}
