"""Servers' policies at work: what agents see of their hosts, and what comes of it.

What each policy does with what it sees is in tests/unit.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mtcp.linux.pressure import CpuPressure, RunDelay
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
# The accept queue alone: on a machine that is busy with other things the service waits for processors, too.
POLICIES = ("load:delay=1,pressure=1", "attack")


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


def test_a_server_whose_service_stands_still_asks_its_clients_to_leave(scene: Scene) -> None:
    def overload(stack: ExitStack) -> None:
        """New connections wait, more and more, for a service that takes none."""
        service = scene.net.pool.programs["files-s1"].process
        service.send_signal(signal.SIGSTOP)
        stack.callback(service.send_signal, signal.SIGCONT)
        crowd = [sys.executable, "-m", "testbed.load", "hold", f"{SERVERS[0]}:80", "--connections", "100"]
        program = Program(
            scene.net.net["attacker"], [*crowd, "--rate", "200", "--seconds", "60"], scene.directory / "crowd.log"
        )
        stack.callback(program.stop)
        program.wait_for("started")

    leaves(scene, "overload", overload, "hint: overload")


def test_the_agent_sees_who_waits_for_processors(scene: Scene) -> None:
    """A twentieth of a core for two who want one each."""
    host = scene.net.s2
    pressure, delay = CpuPressure(host.cgroup), RunDelay()
    burners = [host.popen(["sh", "-c", "while :; do :; done"]) for _ in range(2)]
    try:
        set_cpu(host, 0.05)
        time.sleep(0.2)  # until the quota has been used up
        pids = [burner.pid for burner in burners]
        delay.share(pids)
        began, waited = time.monotonic(), pressure.seconds()
        time.sleep(1)
        share = delay.share(pids)
        assert share is not None and share > 0.5
        assert (pressure.seconds() - waited) / (time.monotonic() - began) > 0.5
    finally:
        set_cpu(host, None)
        for burner in burners:
            burner.kill()
            burner.wait()
        pressure.close()


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
