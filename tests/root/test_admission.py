"""A flood of control segments: each source gets its share, the rest is dropped in the kernel and counted."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from mtcp.address import Endpoint, FourTuple
from mtcp.linux import admission, segments
from mtcp.linux.segments import ControlSegments, Segment, TcpFlags
from mtcp.wire.options import Ack3, AnyOption, Migrate
from tests.root.two_hosts import FAMILIES, IP_TRANSPARENT, IPV6_TRANSPARENT, Network, two_hosts, until

pytestmark = pytest.mark.root


class Flood:
    """Sends control segments from the client's host, from whatever address, and counts what the server's agent gets."""

    def __init__(self, network: Network) -> None:
        self.network = network
        ipv6 = network.family == socket.AF_INET6
        with network.client.inside():
            self.out = network.kept(socket.socket(network.family, socket.SOCK_RAW, socket.IPPROTO_RAW))
        transparent = (socket.IPPROTO_IPV6, IPV6_TRANSPARENT) if ipv6 else (socket.IPPROTO_IP, IP_TRANSPARENT)
        self.out.setsockopt(*transparent, 1)
        with network.server.inside():
            self.agent = ControlSegments()
        network.stack.callback(self.agent.close)
        self.got: dict[str, int] = {}
        self.sent = 0
        network.connect(network.listener())  # so that the hosts know each other's link addresses

    def packet(self, source: str, option: AnyOption, flags: TcpFlags = TcpFlags.SYN) -> bytes:
        connection = FourTuple(Endpoint(source, 4321), self.network.s1)
        return segments.build(Segment(connection, 1, 0, flags, 500, option))

    def send(self, packet: bytes, count: int = 1) -> None:
        for _ in range(count):
            self.out.sendto(packet, (self.network.s1.ip, 0))
        self.sent += count

    def receive(self) -> None:
        """All that was sent."""
        until(lambda: sum(self.agent.counters().values()) == self.sent)
        while any(isinstance(segment, Segment) and self._count(segment) for segment in self.agent.receive()):
            pass

    def _count(self, segment: Segment) -> bool:
        source = segment.four_tuple.remote.ip
        self.got[source] = self.got.get(source, 0) + 1
        return True


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def flood(request: pytest.FixtureRequest) -> Iterator[Flood]:
    with two_hosts(request.param) as network:
        yield Flood(network)


def sources(flood: Flood, count: int) -> list[str]:
    """Addresses of the same network, or, of IPv6, of as many."""
    if flood.network.family == socket.AF_INET:
        return [f"10.77.{n >> 8}.{n & 255}" for n in range(256, 256 + count)]
    return [f"fd78:0:0:{n:x}::1" for n in range(1, 1 + count)]


def migrate(flood: Flood) -> Migrate:
    return Migrate(flood.network.s2, 5, 7, b"forgery!")


def test_a_source_gets_its_share_of_migrates(flood: Flood) -> None:
    limit = admission.MIGRATES.of_source
    loud, quiet = sources(flood, 2)
    packet = flood.packet(loud, migrate(flood))
    began = time.monotonic()
    flood.send(packet, 3 * limit.burst)
    flood.receive()
    flood.send(flood.packet(quiet, migrate(flood)))  # another source suffers nothing
    flood.send(flood.packet(loud, Ack3(7, b"forgery!"), TcpFlags.ACK), 10)  # and so do other segments of the same one
    flood.receive()
    took = time.monotonic() - began
    assert flood.got.pop(quiet) == 1
    taken = flood.got.pop(loud) - 10
    assert limit.burst <= taken <= limit.burst + limit.rate * took + 1
    counters = flood.agent.counters()
    assert counters["migrate taken"] == taken + 1 and counters["other taken"] == 10
    assert counters["migrate over_source_limit"] == 3 * limit.burst - taken
    assert counters["migrate over_limit"] == counters["other over_source_limit"] == 0

    def refilled() -> bool:
        flood.send(packet)
        flood.receive()
        return loud in flood.got

    until(refilled)


def test_forged_sources_share_what_the_agent_can_bear(flood: Flood) -> None:
    limit = admission.MIGRATES.of_all
    packets = [flood.packet(source, migrate(flood)) for source in sources(flood, limit.burst + 2000)]
    began = time.monotonic()
    for packet in packets:
        flood.send(packet)
    flood.receive()
    took = time.monotonic() - began
    counters = flood.agent.counters()
    assert counters["migrate over_source_limit"] == 0
    assert limit.burst <= counters["migrate taken"] <= limit.burst + limit.rate * took + 1
    assert sum(flood.got.values()) == counters["migrate taken"]
    assert counters["migrate over_limit"] == len(packets) - counters["migrate taken"]


def test_a_network_of_ipv6_is_one_source() -> None:
    with two_hosts(socket.AF_INET6) as network:
        flood = Flood(network)
        limit = admission.MIGRATES.of_source
        for n in range(3 * limit.burst):
            flood.send(flood.packet(f"fd78::{n + 1:x}", migrate(flood)))
        flood.receive()
        assert flood.agent.counters()["migrate over_source_limit"] > limit.burst


def test_a_batch_ends_although_more_is_there(flood: Flood) -> None:
    [source] = sources(flood, 1)
    flood.send(flood.packet(source, Ack3(7, b"forgery!"), TcpFlags.ACK), 2 * segments.BATCH)
    until(lambda: flood.agent.counters()["other taken"] == flood.sent)
    assert len(list(flood.agent.receive())) == segments.BATCH
    assert len(list(flood.agent.receive())) == segments.BATCH
    assert list(flood.agent.receive()) == []
