"""Servers' policies at work: what agents see of their hosts, and what comes of it.

What each policy does with what it sees is in tests/unit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from testbed import sandbox
from testbed.cpu import set_cpu
from testbed.processes import Program
from tests.root.leaving import BIG, SLOW, leaves
from tests.root.scene import SERVERS, Scene
from tests.root.test_initiators import mtcp
from topologies import running as common
from topologies.dos import FORGED, Dos
from topologies.two_servers import Running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(120 if sandbox.inside() else 1200)]
BURN = "while :; do :; done"
POLICIES = ("load", "attack")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("server-policies")
    with (
        common.running(Dos, Running, bw=SLOW, rtt=4, loss=0, big=BIG, logs=directory, agents=False) as net,
        net.pool,
        Scene.of(net, directory) as scene,
    ):
        net.pool.write_files()
        net.pool.start_agent(net.client)
        for server in net.servers:
            net.pool.start_agent(server, *[f"--server-policy={policy}" for policy in POLICIES])
        net.pool.serve(net.servers, "files", "--port", "80", "--directory", net.directory)
        yield scene


def test_an_overloaded_server_asks_its_clients_to_leave(scene: Scene) -> None:
    def overload(stack: ExitStack) -> None:
        """A twentieth of a core, for which four others compete; the service gives way to them, the agent does not."""
        service = scene.net.pool.programs["files-s1"].process.pid
        os.setpriority(os.PRIO_PROCESS, service, 19)
        stack.callback(os.setpriority, os.PRIO_PROCESS, service, 0)
        for _ in range(4):
            burner = scene.net.s1.popen(["sh", "-c", BURN])
            stack.callback(burner.wait)
            stack.callback(burner.kill)
        set_cpu(scene.net.s1, 0.05)
        stack.callback(set_cpu, scene.net.s1, None)

    leaves(scene, "overload", overload, "hint: overload")


def test_a_client_has_no_servers_policy(scene: Scene) -> None:
    client = scene.net.client
    words = ["agent", "--name", "other", "--cgroup", str(client.cgroup), "--server-policy"]
    scene.net.pool.programs["agent-client"].stop()
    try:
        assert mtcp(client, *words, "load") == (
            "mtcp: the agent of other is no server of a pool; it needs --pool and --name",
            1,
        )
        assert mtcp(client, *words, "best") == ("mtcp: no server policy 'best'; there are load, attack", 1)
    finally:
        scene.net.pool.start_agent(client)


def test_a_server_under_a_syn_flood_asks_its_clients_to_leave(scene: Scene) -> None:
    # The last of the tests here: the half-open connections stay for a minute.
    def attack(stack: ExitStack) -> None:
        flood = [sys.executable, "-m", "testbed.attack", "syn", f"{SERVERS[0]}:80", "--rate", "2000"]
        flood += ["--seconds", "60", "--sources", FORGED]
        program = Program(scene.net.net["attacker"], flood, scene.directory / "flood.log")
        stack.callback(program.stop)
        program.wait_for("started")

    leaves(scene, "attack", attack, "hint: attack")
