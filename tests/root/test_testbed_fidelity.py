"""Links that are not what was asked for, and link emulators that die, are noticed."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from mininet.topo import Topo

from testbed import sandbox, selftest
from testbed.fidelity import FidelityError, Limits, Monitor
from testbed.network import Network
from testbed.ping import ping
from testbed.results import Run
from testbed.selftest import SelfTestError, Tolerances

pytestmark = pytest.mark.sandbox(shared=True)

WIDE = Tolerances(delay_ms=4.0, spread_ms=2.0, rate=0.15)
"""The machine that the tests run on is busy."""
ENDLESS = Limits(**dict.fromkeys((each.name for each in fields(Limits)), 1e9))


class Four(Topo):  # type: ignore[misc]
    """Four links of a switch, each with something to be wrong."""

    def build(self, **_params: Any) -> None:
        switch = self.addSwitch("sw1")
        self.addLink(self.addHost("h1"), switch, delay="10ms", jitter="1ms", params2={"delay": "20ms"})
        self.addLink(self.addHost("h2"), switch, bw=20, delay=5)
        self.addLink(self.addHost("h3"), switch, loss="2%")
        self.addLink(self.addHost("h4"), switch, bw="100mbit")


@pytest.fixture(scope="module")
def net() -> Iterator[Network | None]:
    if not sandbox.inside():
        yield None
        return
    network = Network(Four(), emulation="delay-line")
    try:
        network.start()
        yield network
    finally:
        network.stop()


def record(run: Run) -> Any:
    return json.loads(run.path("run.json").read_text())


def test_links_that_are_as_they_should_be(net: Network, tmp_path: Path) -> None:
    with Run("demo", scenario="s", mechanism="mtcp", results=tmp_path) as run:
        with Monitor(run, net, ENDLESS) as monitor:
            selftest.check(net, run, seconds=0.2, tolerances=WIDE)
        run.finish("succeeded")
    noted = record(run)
    assert (noted["verdict"], noted["emulation"]) == ("succeeded", "delay-line")
    directions = {each["direction"]: each for each in noted["selftest"]["directions"]}
    assert len(directions) == 8 and noted["selftest"]["faults"] == []
    assert directions["h1-eth0->sw1-eth1"]["asked"]["delay"] == 0.01
    assert directions["sw1-eth1->h1-eth0"]["delay_ms"] == pytest.approx(20, abs=4)
    assert directions["h4-eth0->sw1-eth4"]["rate_mbit"] == pytest.approx(100, rel=0.15)
    assert directions["h4-eth0->sw1-eth4"]["asked"]["bandwidth"] == 1e8
    assert monitor.figures["emulator_drops"] == 0
    assert 0 < monitor.figures["emulator_cpu"] < 1
    assert monitor.figures["emulator_late_p99_ms"] > 0


def test_ping_sees_both_directions(net: Network) -> None:
    times = ping(net["h1"], net["h4"].IP(), 20, 0.005)
    assert len(times) == 20
    assert 28 < min(times) < sorted(times)[10] < 45, "10 ms and 20 ms, and a jitter of 1 ms"
    assert all(map(math.isnan, ping(net["h1"], "10.99.99.99", 2, 0.001, patience=0.05)))


def test_links_that_somebody_has_changed_are_caught(net: Network, tmp_path: Path) -> None:
    delayed, slow, lossy, _ = net.links
    changes: tuple[tuple[Any, dict[str, Any]], ...] = (
        (delayed, {"delay": 30, "direction": 1}),
        (lossy, {"loss": 40, "direction": 2}),
    )
    for link, change in changes:
        asked = link.conditions
        link.set(**change)
        link.conditions = asked
    port = slow._passage.ports[1]
    net._emulator.middle.tc(f"qdisc replace dev {port} root handle 1: tbf rate 10mbit burst 15000 limit 300000")
    net["h4"].cmd("ip link set h4-eth0 down")
    with (
        pytest.raises(SelfTestError) as raised,
        Run("demo", scenario="s", mechanism="mtcp", results=tmp_path) as run,
    ):
        selftest.check(net, run, seconds=0.2, tolerances=WIDE)
    noted = record(run)
    assert noted["verdict"] == "invalid" and str(raised.value) in noted["reason"]
    faults = dict(each.split(": ", 1) for each in noted["selftest"]["faults"])
    assert faults.keys() == {
        "h1-eth0->sw1-eth1",
        "h2-eth0->sw1-eth2",
        "sw1-eth3->h3-eth0",
        "h4-eth0->sw1-eth4",
        "sw1-eth4->h4-eth0",
    }
    assert faults["h1-eth0->sw1-eth1"].startswith("the delay is ")
    assert faults["h1-eth0->sw1-eth1"].endswith(" ms, not 10 ms")
    assert faults["h2-eth0->sw1-eth2"].startswith("the rate is ")
    assert "frames were lost; of a loss of 2.00%" in faults["sw1-eth3->h3-eth0"]
    assert "40 of 40 frames were lost" in faults["h4-eth0->sw1-eth4"]


def test_a_run_whose_emulator_dies_is_invalid_at_once(net: Network, tmp_path: Path) -> None:
    with (
        pytest.raises(FidelityError, match=r"the delay line .* has died: SIGKILL"),
        Run("demo", scenario="s", mechanism="mtcp", results=tmp_path) as run,
        Monitor(run, net, ENDLESS),
    ):
        os.kill(net._emulator.process.process.pid, signal.SIGKILL)
        killed = time.monotonic()
        try:
            time.sleep(60)  # an experiment that waits for what will not come
        finally:
            noticed = time.monotonic() - killed
            early = record(run)
    assert noticed < 10
    assert early["verdict"] == "invalid" and "has died: SIGKILL" in early["reason"]
    assert record(run)["reason"] == early["reason"] and "fidelity" in record(run)
