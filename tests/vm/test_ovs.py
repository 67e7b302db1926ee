"""Our topologies over Mininet's switches of Open vSwitch, with our links."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest
from mininet.node import OVSBridge, OVSSwitch

from testbed import sandbox
from testbed.processes import checked
from tests.vm.ovs import open_vswitch
from topologies import pool, two_servers
from topologies.running import SERVICE_SWITCH, Running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def vswitch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with open_vswitch(tmp_path_factory.mktemp("ovs")) if sandbox.inside() else contextlib.nullcontext():
        yield


def round_trip(network: Running, to: str) -> float:
    """The median of some, in ms; none is lost."""
    out = checked(network.client, "ping", "-c10", "-i0.1", "-W10", to)
    assert " 0% packet loss" in out
    return sorted(float(time) for time in re.findall(r"time=([\d.]+)", out))[5]


def flows() -> str:
    """What the kernel's Open vSwitch forwards now."""
    return subprocess.check_output(["ovs-appctl", "dpctl/dump-flows"], text=True)


def test_two_servers_over_a_learning_switch() -> None:
    with two_servers.running(switch=OVSBridge, agents=False, big=10_000, bw=20, rtt="40ms") as network:
        assert network.net.emulation == "netem"
        assert 40 <= round_trip(network, "10.0.0.1") < 80
        assert re.search(r"eth_type\(0x0800\).* actions:\d", flows())
        network.set("client", SERVICE_SWITCH, delay=60)
        assert 140 <= round_trip(network, "10.0.0.2") < 180  # 60 and 10 each way


def test_a_pool_over_switches_with_flows_of_openflow() -> None:
    secure = partial(OVSSwitch, failMode="secure")  # without flows it forwards nothing
    with pool.running(n=3, m=2, switch=secure, agents=False, big=10_000, rtt="20ms") as network:
        assert network.client.pexec("ping", "-c1", "-W1", "10.0.0.3")[2] != 0
        for switch in network.net.switches:
            checked(switch, "ovs-ofctl", "add-flow", switch.name, "actions=normal")
        for server in network.servers:
            assert 20 <= round_trip(network, server.IP()) < 60
        checked(network.servers[0], "ping", "-c1", "-W10", "10.1.0.3")
