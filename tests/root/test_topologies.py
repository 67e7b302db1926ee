"""Topologies in Mininet itself, as `mn --custom` brings them up; and what belongs to one of them alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from mininet.link import Link
from mininet.net import Mininet
from mininet.node import Host

from testbed.nodes import BridgeSwitch
from topologies import dumbbell

pytestmark = pytest.mark.sandbox(shared=True)

DIRECTORY = Path(dumbbell.__file__).parent


@pytest.mark.parametrize("name", ["two_servers", "pool", "dumbbell", "dos", "wan"])
def test_with_any_host_and_link_of_mininet(name: str) -> None:
    found: dict[str, Any] = {}
    code = compile((DIRECTORY / f"{name}.py").read_text(), name, "exec")
    exec(code, found, found)  # as mn does it
    topo = found["topos"][name]()
    net = Mininet(topo, host=Host, switch=BridgeSwitch, link=Link, controller=None)
    try:
        net.start()
        for server in topo.pool:
            for client in topo.clients:
                out, _, code = net[client].pexec("ping", "-c1", "-W5", server.service)
                assert code == 0, out
    finally:
        net.stop()


def test_cross_traffic_congests_one_path_only(tmp_path: Path) -> None:
    with dumbbell.running(bw=20, cross_bw=30, agents=False, big=1000, logs=tmp_path) as network:
        counters = {"x1": "x1-eth0", "client": "client-eth0"}
        before = {name: received(network.net[name], interface) for name, interface in counters.items()}
        begun = time.monotonic()
        time.sleep(1.0)
        seconds = time.monotonic() - begun
        mbit = {
            name: (received(network.net[name], interface) - before[name]) * 8e-6 / seconds
            for name, interface in counters.items()
        }
        assert 15 < mbit["x1"] < 21 and mbit["client"] < 1, mbit
        (_, waiting), (free, _) = (round_trip(network.client, server) for server in ("10.0.1.1", "10.0.2.1"))
        assert waiting > 20 > free, (waiting, free)  # 250 packets take 150 ms


def received(host: Any, interface: str) -> int:
    """Bytes."""
    lines = Path(f"/proc/{host.pid}/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith(f"{interface}:")).split()[1])


def round_trip(host: Any, address: str) -> tuple[float, float]:
    """Milliseconds: the least, and the mean; what is lost does not count."""
    out, _, _ = host.pexec("ping", "-c20", "-i0.05", "-q", address)
    least, mean, *_ = out.rpartition("= ")[2].split("/")
    return float(least), float(mean)
