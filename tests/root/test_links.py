"""Links with bandwidth, delay, jitter and loss: nothing is lost or reordered but what is to be.

Times are not asserted tightly here: that is for make bench-testbed.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from mininet.topo import Topo

from testbed import sandbox
from testbed.links import EmulatedLink, LinkError
from testbed.namespaces import setns
from testbed.network import Network
from testbed.nodes import MtcpHost
from testbed.processes import checked

pytestmark = pytest.mark.sandbox(shared=True)

PAUSE = 0.0005
"""Seconds between numbered packets."""


class Pairs(Topo):  # type: ignore[misc, unused-ignore]
    """Two hosts with a link of each kind between them: what tests change, they put back."""

    def build(self, **_: Any) -> None:
        for name in ("h1", "h2"):
            self.addHost(name, ip=None)
        for number, params in enumerate((PLAIN, SHAPED, DELAYED)):
            ends = {f"params{i}": {"ip": f"10.0.{number}.{i}/24"} for i in (1, 2)}
            self.addLink("h1", "h2", **ends, **params)


PLAIN: dict[str, Any] = {}
SHAPED: dict[str, Any] = {"bw": 100}
DELAYED: dict[str, Any] = {"bw": 100, "delay": "5ms", "loss": 0}
PORT = 5000


@pytest.fixture(scope="module")
def net() -> Iterator[Network | None]:
    if not sandbox.inside():
        yield None
        return
    net = Network(Pairs(), emulation="delay-line", seed=7)  # netem, where there is one: tests/vm
    net.start()
    try:
        yield net
    finally:
        net.stop()


def udp(host: MtcpHost, address: str) -> socket.socket:
    """A socket of this process in the network namespace of a host."""
    home, there = (os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in (os.getpid(), host.pid))
    setns(there)
    try:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    finally:
        setns(home)
        os.close(home)
        os.close(there)
    sock.bind((address, PORT))
    sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
    sock.setblocking(False)
    return sock


@dataclass
class Arrivals:
    """What became of numbered packets."""

    sent: int = 0
    numbers: list[int] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)


def numbered(
    net: Network, link: int, count: int, meanwhile: dict[int, Callable[[], None]] | None = None, back: bool = False
) -> Arrivals:
    """Send numbered packets over the link of this index, from h1 or `back`; `meanwhile`: what to do after how many."""
    names = ("h2", "h1") if back else ("h1", "h2")
    from_, to = (udp(net[name], f"10.0.{link}.{name[1]}") for name in names)
    arrivals = Arrivals()
    threads: list[threading.Thread] = []

    def receive() -> bool:
        try:
            number, at = struct.unpack_from("=Id", to.recv(2000))
        except BlockingIOError:
            return False
        arrivals.numbers.append(number)
        arrivals.delays.append(time.monotonic() - at)
        return True

    with from_, to:
        start = time.monotonic()
        while arrivals.sent < count:
            while receive():
                pass
            if time.monotonic() < start + arrivals.sent * PAUSE:
                time.sleep(PAUSE / 5)
                continue
            from_.sendto(struct.pack("=Id", arrivals.sent, time.monotonic()) + bytes(400), to.getsockname())
            arrivals.sent += 1
            if meanwhile and arrivals.sent in meanwhile:
                threads.append(threading.Thread(target=meanwhile[arrivals.sent]))
                threads[-1].start()
        quiet = time.monotonic()
        while len(arrivals.numbers) < count and time.monotonic() < quiet + 0.5:
            if receive():
                quiet = time.monotonic()
            else:
                time.sleep(0.001)
        for thread in threads:
            thread.join()
    return arrivals


def quickest(least: float, most: float, measure: Callable[[], Arrivals]) -> Arrivals:
    """Measure until the quickest packet, which is never too early, is not late either: machines can be busy."""
    for _ in range(10):
        arrivals = measure()
        assert min(arrivals.delays) >= least
        if min(arrivals.delays) < most:
            return arrivals
    raise AssertionError(f"not within {most} s, but after {min(arrivals.delays)} s")


def test_each_direction_has_its_delay(net: Network) -> None:
    link = net.links[2]
    link.set(delay=60, direction=2)
    try:
        quickest(0.005, 0.02, lambda: numbered(net, 2, 300))
        quickest(0.06, 0.075, lambda: numbered(net, 2, 300, back=True))
    finally:
        link.set(delay=5)
    assert [each.delay for each in link.conditions] == [0.005, 0.005]
    quickest(0.0, 0.004, lambda: numbered(net, 1, 100))


def test_jitter_is_around_the_delay(net: Network) -> None:
    link = net.links[2]
    link.set(delay=20, jitter=4)
    try:
        arrivals = quickest(0.016, 0.0195, lambda: numbered(net, 2, 1000))
    finally:
        link.set(delay=5, jitter=0)
    assert statistics.pstdev(arrivals.delays) > 0.0005
    assert arrivals.numbers == list(range(1000))


def test_nothing_is_lost_or_reordered_by_changes(net: Network) -> None:
    link = net.links[2]
    link.set(delay=80)
    changes = {
        600: lambda: link.set(delay=5),
        1500: lambda: link.set(delay=80),
        1700: lambda: link.set(bw=10, delay=30, jitter=10),
        2000: lambda: link.set(bw=None, jitter=0),
        2400: lambda: link.set(bw=100, delay=5),
    }
    try:
        arrivals = numbered(net, 2, 3000, changes)
    finally:
        link.set(bw=100, delay=5, jitter=0)
    assert arrivals.numbers == list(range(3000))
    # 5 ms were reached between the first two changes.
    assert arrivals.delays[100] >= 0.08
    assert min(arrivals.delays[1000:1500]) < 0.04


def test_nothing_is_lost_by_changes_of_bandwidth(net: Network) -> None:
    link = net.links[1]
    changes = {
        300: lambda: link.set(bw=10),
        700: lambda: link.set(bw=None),
        1100: lambda: link.set(bw=10, queue=1000),
        1400: lambda: link.set(bw=100, queue=250),
    }
    try:
        arrivals = numbered(net, 1, 1800, changes)
    finally:
        link.set(bw=100, queue=250)
    assert arrivals.numbers == list(range(1800))


@pytest.mark.parametrize("link", [1, 2])
def test_what_a_full_buffer_drops_is_counted(net: Network, link: int) -> None:
    before = net.emulation_stats()
    net.links[link].set(bw=2, queue=20)
    try:
        arrivals = numbered(net, link, 600)
    finally:
        net.links[link].set(bw=100, queue=250)
    direction = net.emulation_stats().since(before).directions[f"h1-eth{link}->h2-eth{link}"]
    assert direction.dropped == arrivals.sent - len(arrivals.numbers) > 100
    assert direction.overflow == direction.lost == 0
    assert arrivals.numbers == sorted(arrivals.numbers)


def test_what_is_lost_is_lost_by_the_emulator_alone(net: Network) -> None:
    link = net.links[2]
    before = net.emulation_stats()
    link.set(loss="10%", direction=1)
    try:
        there, back = numbered(net, 2, 3000), numbered(net, 2, 300, back=True)
    finally:
        link.set(loss=None)
    stats = net.emulation_stats().since(before)
    lost = there.sent - len(there.numbers)
    assert 300 - 70 < lost < 300 + 70  # 4 standard deviations
    assert there.numbers == sorted(there.numbers)
    assert back.numbers == list(range(300))
    assert net.emulation == "delay-line"  # below: its counters
    line = stats.directions["h1-eth2->h2-eth2"]
    assert line.packets >= 3000
    assert lost <= line.lost <= lost + line.packets - 3000  # the few others: ARP
    assert [each.overflow for each in stats.directions.values()] == [0] * 4
    assert 0 <= stats.lateness(0.5) < 0.01


def test_no_super_packets_while_packets_are_lost(net: Network) -> None:
    link = net.links[2]

    def features(host: str) -> list[str]:
        listed = checked(net[host], "ethtool", "-k", f"{host}-eth2").splitlines()
        return [line.strip().split(":")[1] for line in listed if "segmentation-offload: o" in line]

    before = [features(host) for host in ("h1", "h2")]
    link.set(loss=1, direction=2)
    try:
        assert features("h1") == before[0]
        assert set(features("h2")) != set(before[1])
        assert numbered(net, 2, 10).numbers == list(range(10))
    finally:
        link.set(loss=0)
    assert [features(host) for host in ("h1", "h2")] == before


DOWNLOAD = """
import hashlib, socket
digest = hashlib.sha256()
with socket.create_connection(("10.0.2.1", 5001)) as connection:
    while data := connection.recv(1 << 20):
        digest.update(data)
print(digest.hexdigest())
"""
UPLOAD = """
import random, socket
with socket.create_server(("10.0.2.1", 5001)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    with connection:
        connection.sendall(random.Random(1).randbytes(6_000_000))
"""


def test_tcp_gets_all_bytes_through_a_lossy_link(net: Network) -> None:
    link = net.links[2]
    link.set(loss=0.5)
    before = net.emulation_stats()
    server = net["h1"].popen([sys.executable, "-c", UPLOAD], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        digest = checked(net["h2"], sys.executable, "-c", DOWNLOAD).strip()
    finally:
        server.kill()
        server.wait()
        link.set(loss=0)
    assert digest == hashlib.sha256(random.Random(1).randbytes(6_000_000)).hexdigest()
    direction = net.emulation_stats().since(before).directions["h1-eth2->h2-eth2"]
    assert direction.lost > 0
    assert direction.overflow == 0


def test_a_plain_link_is_plain(net: Network) -> None:
    assert "veth" in checked(net["h1"], "ip", "-d", "link", "show", "h1-eth0")
    assert checked(net["h1"], "tc", "qdisc").count("noqueue") >= 3  # and nothing on the others either
    net.links[0].set(bw=None, delay=0)  # as it is
    for params in ({"bw": 5}, {"delay": 5}, {"direction": 3}):
        with pytest.raises(LinkError):
            net.links[0].set(**params)
    with pytest.raises(LinkError, match="only: make it with delay=0"):
        net.links[1].set(delay=5)


def test_a_backend_that_is_absent_is_an_error() -> None:
    present = subprocess.run(["tc", "qdisc", "replace", "dev", "lo", "root", "netem"], capture_output=True)
    if present.returncode == 0:
        subprocess.run(["tc", "qdisc", "delete", "dev", "lo", "root"], check=True)
        Network(Topo(), emulation="netem").stop()
        return
    with pytest.raises(LinkError, match="no netem: modprobe sch_netem, or use the emulation delay-line"):
        Network(Topo(), emulation="netem")


def test_its_links_say_what_they_are(net: Network) -> None:
    assert net.emulation == "delay-line"
    stats = net.emulation_stats()
    assert list(stats.directions) == [f"h{a}-eth{i}->h{b}-eth{i}" for i in (1, 2) for a, b in ((1, 2), (2, 1))]
    assert stats.realtime in (True, False)
    assert stats.cpu > 0
    assert isinstance(net.links[2], EmulatedLink)
    assert json.loads(json.dumps(stats.directions["h1-eth1->h2-eth1"].lateness)) == {}
