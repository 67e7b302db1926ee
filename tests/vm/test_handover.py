"""Connections move between servers over links of netem, through the kernel's bridge and through Open vSwitch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from mininet.node import OVSBridge

from testbed import sandbox
from testbed.nodes import BridgeSwitch
from testbed.strict import compile_strict
from tests.root.scene import SERVERS, Scene
from tests.vm.ovs import open_vswitch
from topologies.running import SERVICE_SWITCH
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(900)]

MBITS = 10
STREAM = "7001"
MOVES = 5
SECONDS = 30
"""That the transfers take at MBITS, which is more than their moves do, even here."""


@pytest.fixture(scope="module", params=["bridge", "ovs"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("scene")
    with contextlib.ExitStack() as stack:
        switch = BridgeSwitch
        if request.param == "ovs":
            stack.enter_context(open_vswitch(tmp_path_factory.mktemp("ovs")))
            switch = OVSBridge
        net = stack.enter_context(running(switch=switch, bw=MBITS, rtt="40ms", loss=0, big=10_000, logs=directory))
        assert net.net.emulation == "netem"
        scene = stack.enter_context(Scene.of(net, directory))
        scene.service("stream", "--port", STREAM)
        yield scene


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


@pytest.mark.parametrize("mode", ["recv", "upload"])
def test_moves_there_and_back(scene: Scene, strict: Path, mode: str) -> None:
    with scene.watched(mode):
        client = scene.client(strict, mode, SERVERS[0], STREAM, str(MBITS * 125_000 * SECONDS))
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, seed=1)
        assert client.runs
        client.strict()
    scene.judge(connection, outcomes)


def test_moves_while_packets_are_lost_and_the_delay_changes(scene: Scene, strict: Path) -> None:
    with scene.watched("lossy"):
        client = scene.client(strict, "recv", SERVERS[0], STREAM, str(MBITS * 125_000 * SECONDS // 2))
        [connection] = scene.wait_for_connections()
        outcomes = []
        for delay in (50, 5, 30):
            scene.net.set("client", SERVICE_SWITCH, delay=delay, loss=1)
            outcomes += scene.moves(connection, 1, seed=delay)
        assert client.runs
        scene.net.set("client", SERVICE_SWITCH, delay=10, loss=0)
        client.strict()
    scene.judge(connection, outcomes)
