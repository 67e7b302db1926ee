"""Links by the kernel's netem: each parameter is honoured, each way, and live. Times are of an emulated processor."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mininet.topo import Topo

from testbed import sandbox
from testbed.links import EmulatedLink
from testbed.network import Network
from testbed.processes import Program, checked

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(900)]

LATE = 30.0
"""Milliseconds that half of the packets may be late, in all: the machine is emulated, too."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network | None]:
    if not sandbox.inside():
        yield None
        return
    topo = Topo()
    topo.addLink(topo.addHost("h1"), topo.addHost("h2"), delay=0, bw=float("inf"))
    net = Network(topo)
    try:
        net.start()
        checked(net["h1"], "ping", "-c1", "-W10", net["h2"].IP())  # neighbours know each other
        yield net
    finally:
        net.stop()


@pytest.fixture
def link(network: Network) -> EmulatedLink | None:
    """The only link, with nothing emulated now."""
    if network is None:
        return None
    (link,) = network.links
    link.set(bw=None, delay=None, jitter=None, loss=None, queue=None)
    return link


def pings(network: Network, count: int, interval: float = 0.01) -> list[tuple[int, float]]:
    """Number and round-trip time in ms of each answer, in the order in which they came."""
    out, _, _ = network["h1"].pexec("ping", "-c", str(count), "-i", str(interval), "-W", "10", network["h2"].IP())
    return [(int(number), float(time)) for number, time in re.findall(r"icmp_seq=(\d+) .*time=([\d.]+)", out)]


def median(answers: list[tuple[int, float]]) -> float:
    return statistics.median(time for _, time in answers)


def iperf3(network: Network, *options: str) -> dict[str, Any]:
    server = Program(network["h2"], ["iperf3", "-s", "-1", "--forceflush"], sandbox.RUN / "iperf3.log")
    server.wait_for("Server listening", timeout=60)
    report: dict[str, Any] = json.loads(checked(network["h1"], "iperf3", "-c", network["h2"].IP(), "-J", *options))
    server.stop()
    return report["end"]


def test_netem_is_chosen_where_the_kernel_has_it(network: Network, link: EmulatedLink) -> None:
    assert network.emulation == "netem"


def test_delay_each_way(network: Network, link: EmulatedLink) -> None:
    link.set(delay="20ms", direction=1)
    link.set(delay="60ms", direction=2)
    answers = pings(network, 50)
    assert min(time for _, time in answers) >= 80
    assert 80 <= median(answers) < 80 + LATE


def test_delay_changes_live_and_nothing_is_lost_or_overtaken(network: Network, link: EmulatedLink) -> None:
    link.set(delay=20)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(pings, network, 1000, 0.005)
        for delay in (60, 5, 100, 1, 40):
            checked(network["h2"], "sleep", "0.5")
            link.set(delay=delay)
        numbers = [number for number, _ in answers.result()]
    assert numbers == list(range(1, 1001))


def test_jitter(network: Network, link: EmulatedLink) -> None:
    link.set(delay=100, jitter=50)
    times = [time for _, time in pings(network, 100, 0.2)]
    assert 100 <= min(times) < 180
    assert 200 < max(times) < 300 + 2 * LATE
    assert statistics.pstdev(times) > 15  # of two uniform ones: 41


@pytest.mark.parametrize("percent", [1, 10])
def test_loss(network: Network, link: EmulatedLink, percent: int) -> None:
    link.set(loss=f"{percent}%", direction=1)
    sent = 3000
    lost = sent - len(pings(network, sent, 0.002))
    expected = sent * percent / 100
    assert abs(lost - expected) < 4 * (expected * (1 - percent / 100)) ** 0.5  # one of 16,000 honest ones fails


# Low rates: a token bucket that holds 15 kB loses nothing of them while the emulated processor does something else.


@pytest.mark.parametrize("options", [[], ["-R"]], ids=["there", "back"])
def test_bandwidth(network: Network, link: EmulatedLink, options: list[str]) -> None:
    link.set(bw=2, delay=5)
    report = iperf3(network, "-t", "8", "-O", "2", *options)
    assert 1.7 < report["sum_received"]["bits_per_second"] / 1e6 < 2


def test_a_full_buffer_adds_its_length(network: Network, link: EmulatedLink) -> None:
    link.set(bw=2, delay=5, queue=50)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(iperf3, network, "-u", "-b", "4M", "-l", "1400", "-t", "8")
        checked(network["h2"], "sleep", "3")
        answers = pings(network, 20, 0.1)
        running.result()
    full = 50 * 1514 * 8 / 2e6 * 1e3
    assert 10 + 0.85 * full < median(answers) < 10 + 1.05 * full + LATE
    assert network.emulation_stats().directions["h1-eth0->h2-eth0"].dropped > 0
