"""An honest client moves while others flood the new server's agent with forged MIGRATEs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mtcp.address import Endpoint, FourTuple
from mtcp.agent import local
from mtcp.linux.segments import Segment, TcpFlags, build
from mtcp.wire.options import Migrate
from testbed import sandbox
from tests.root.scene import SERVERS, Scene, enter_network_of
from tests.root.test_migration import digest
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(120 if sandbox.inside() else 300)]

BATCH, PAUSE = 5, 0.001  # at most 5000 a second from one address: 20 times its limit
ATTACKER = "10.0.0.200"
MOVES = 10


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("scene")
    with running(bw=100, big=50_000_000, logs=directory) as net, Scene.of(net, directory) as scene:
        yield scene


def flood(client: int, over: threading.Event) -> None:
    """From the client's network, with another address, until `over`."""
    enter_network_of(client)
    packets = []
    for number in range(1000):
        connection = FourTuple(Endpoint(ATTACKER, 1024 + number), Endpoint(SERVERS[1], 80))
        forged = Migrate(Endpoint(SERVERS[0], 80), 1, 1, os.urandom(8))
        packets.append(build(Segment(connection, 1, 0, TcpFlags.SYN, 500, forged)))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        sent = 0
        while not over.wait(PAUSE):
            for _ in range(BATCH):
                out.sendto(packets[sent % len(packets)], (SERVERS[1], 0))
                sent += 1


def dropped(scene: Scene) -> int:
    """MIGRATEs that did not reach the agent of s2."""
    with ThreadPoolExecutor(1, initializer=enter_network_of, initargs=(scene.net.s2.pid,)) as there:
        status = there.submit(local.request, {"op": "status"}).result(30)
    return int(status["control_segments"]["migrate over_source_limit"])


def test_moves_during_a_flood(scene: Scene) -> None:
    over = threading.Event()
    attacker = threading.Thread(target=flood, args=(scene.net.client.pid, over))
    with scene.watched("flood"):
        client = scene.client("curl", "-sS", f"http://{SERVERS[0]}/big")
        output = client.digest()
        [connection] = scene.wait_for_connections()
        attacker.start()
        try:
            while not dropped(scene):
                over.wait(0.05)
            outcomes = scene.moves(connection, MOVES, seed=1)
            assert client.runs
        finally:
            over.set()
            attacker.join()
        assert output.result(40) == digest((scene.net.directory / "big").read_bytes())
    scene.judge(connection, outcomes)
    assert dropped(scene) > 0
