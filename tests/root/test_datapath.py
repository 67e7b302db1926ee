"""The datapath on real kernel TCP: handshake, entries, their lives, pins."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtcp.address import Endpoint, FourTuple
from mtcp.linux.datapath import Datapath, DatapathError, EntryState, EventKind
from mtcp.linux.sockdiag import SockDiag
from mtcp.linux.tcp_repair import four_tuple_of
from tests.root.two_hosts import (
    FAMILIES,
    PORT,
    Network,
    accept,
    begin,
    find,
    numbers,
    raw_segment,
    read_exactly,
    run,
    segments,
    shape,
    take_over,
    tuple_of,
    two_hosts,
    until,
)

pytestmark = pytest.mark.root

CONTROL = b"\xfd\x06MT\x21\x00\x01\x01"  # subtype 2


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    with two_hosts(request.param) as made:
        yield made


def test_options_are_on_the_wire_for_registered_ports_only(network: Network) -> None:
    plain_listener = network.listener(PORT + 1)
    tap = network.server.capture("s0")
    network.connect(plain_listener)
    plain = segments(tap)
    network.attach()
    listener, unregistered = network.listener(PORT), network.listener(PORT + 2)
    client, _ = network.connect(listener)
    client.sendall(b"x")
    marked = segments(tap)
    network.connect(plain_listener)
    network.connect(unregistered)
    again = segments(tap)
    tap.close()
    plain_synack = next(s for s in plain if s.flags == 0x12)
    assert not any(s.has_ours() for s in plain)
    assert [s.flags for s in marked if s.has_ours()] == [0x02, 0x12]
    assert next(s for s in marked if s.flags == 2).options.endswith(b"\xfd\x08MT\x11\0\0\0")
    for synack in (s for s in again if s.flags == 0x12):
        assert shape(synack.options) == shape(plain_synack.options)
    assert len([s for s in again if s.flags == 0x12]) == 2


def test_both_sides_know_the_same_connection(network: Network) -> None:
    c, s = network.attach()
    client, server = network.connect(network.listener())
    entry, accepted = find(c, client), s.accepted(tuple_of(server))
    assert accepted is not None
    assert entry.key == accepted.key != bytes(8)
    assert (entry.rcv_nxt, entry.snd_nxt) == (accepted.snd_nxt, accepted.rcv_nxt)
    assert entry.state is EntryState.TRACKED and not entry.moved and not entry.closed and entry.next is None
    assert entry.four_tuple == tuple_of(client) and entry.current == network.s1
    assert select.select([c], [], [], 1)[0]
    assert [(e.kind, e.index) for e in c.events()] == [(EventKind.ESTABLISHED, entry.index)]
    assert not select.select([c], [], [], 0)[0]
    assert s.entries() == []
    s.forget(tuple_of(server))
    assert s.accepted(tuple_of(server)) is None


@pytest.mark.parametrize("attached", ["client", "server"])
def test_one_side_alone_stays_plain(network: Network, attached: str) -> None:
    if attached == "client":
        datapath = network.client.attach("c0")
    else:
        datapath = network.server.attach("s0")
        datapath.listen(PORT)
    with contextlib.closing(datapath):
        client, server = network.connect(network.listener())
        client.sendall(b"hello")
        assert server.recv(5) == b"hello"
        assert datapath.entries() == [] and datapath.events() == []
        assert datapath.accepted(tuple_of(server)) is None


def test_unlisten_and_no_keys_mean_plain(network: Network) -> None:
    c, s = network.attach(capacity=2)
    listener = network.listener()
    for _ in range(2):
        c.remove(find(c, network.connect(listener)[0]))
    assert c.find(tuple_of(network.connect(listener)[0])) is None  # both keys are used up
    s.refill_keys()
    c.remove(find(c, network.connect(listener)[0]))
    s.unlisten(PORT)
    assert c.find(tuple_of(network.connect(listener)[0])) is None


def test_dual_stack_listener_and_ipv4_in_ipv6_sockets() -> None:
    """A connection is what its packets are, whatever its sockets are."""
    with two_hosts() as network:
        c, s = network.attach()
        with network.server.inside():
            listener = network.kept(socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True))
        with network.client.inside():
            ipv4 = network.kept(socket.create_connection((network.s1.ip, PORT), 5))
            mapped = network.kept(socket.socket(socket.AF_INET6))
        mapped.settimeout(5)
        mapped.connect((f"::ffff:{network.s1.ip}", PORT))
        for client in (ipv4, mapped):
            server, _ = listener.accept()
            address = Endpoint(network.client_ip, client.getsockname()[1])
            entry = c.find(FourTuple(address, network.s1))
            accepted = s.accepted(FourTuple(network.s1, address))
            assert entry is not None and accepted is not None and entry.key == accepted.key
            assert four_tuple_of(client) == entry.four_tuple == four_tuple_of(server).reversed
            s2 = take_over(network, server)
            accept(network, begin(c, entry, network.s2))
            s2.sendall(b"down")
            assert read_exactly(client, 4) == b"down"
            client.sendall(b"up")
            assert read_exactly(s2, 2) == b"up"
            s2.close()
            assert client.recv(1) == b""
            client.close()
            until(lambda i=entry.index: c.entry(i).closed)
            server.close()


def test_sock_diag_finds_sockets_of_both_families(network: Network) -> None:
    client, _ = network.connect(network.listener())
    with network.client.inside():
        sockets = SockDiag()
        network.stack.callback(sockets.close)
    connection = tuple_of(client)
    assert sockets.exists(connection)
    assert not sockets.exists(FourTuple(connection.local, Endpoint(network.s2.ip, PORT)))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT
    client.close()
    assert not sockets.exists(connection)


def test_entry_has_the_sockets_numbers(network: Network) -> None:
    c, _ = network.attach()
    tap = network.client.capture("c0")
    client, server = network.connect(network.listener())
    client.sendall(b"x" * 100_000)
    read_exactly(server, 100_000)
    server.sendall(b"y" * 200_000)
    read_exactly(client, 200_000)
    until(lambda: find(c, client).rcv_nxt == numbers(client)[0])
    entry = find(c, client)
    assert (entry.rcv_nxt, entry.snd_nxt) == numbers(client)
    assert entry.counters["clamped"] == 0
    acks = [s for s in segments(tap) if s.sport == client.getsockname()[1]]
    tap.close()
    assert entry.window == acks[-1].window
    assert 0 < entry.last_seen_ns < time.monotonic_ns()
    assert entry.committed_at_ns == 0
    assert c.entry(entry.index) == entry and c.entries() == [entry]


def test_control_segments_never_reach_the_kernel(network: Network) -> None:
    c, s = network.attach()
    client, server = network.connect(network.listener())
    entry = find(c, client)
    local, remote = entry.four_tuple
    seen_by_client, seen_by_server = network.client.capture("c0"), network.server.capture("s0")
    raw_segment(network.server, remote, local, entry.rcv_nxt, entry.snd_nxt, 0x14, CONTROL)  # RST, ACK
    raw_segment(network.client, local, remote, entry.snd_nxt, entry.rcv_nxt, 0x14, CONTROL)
    entry = begin(c, find(c, client), network.s2)  # they pass while migrating, too, and even with SYN
    raw_segment(network.client, local, remote, entry.snd_nxt, entry.rcv_nxt, 0x02, CONTROL)
    assert [x.flags for x in segments(seen_by_client) if x.sport == PORT] == [0x14]
    assert [x.flags for x in segments(seen_by_server) if x.dport == PORT] == [0x14, 0x02]
    now = c.entry(entry.index)
    assert (now.counters["egress"], now.counters["held"], now.stale) == (entry.counters["egress"], 0, False)
    assert c.abort(entry)
    client.sendall(b"alive")
    assert read_exactly(server, 5) == b"alive"
    assert s.entries() == []


def test_remove_and_capacity(network: Network) -> None:
    c, s = network.attach(capacity=2)
    listener = network.listener()
    pairs = [network.connect(listener) for _ in range(2)]
    s.refill_keys()
    plain, plain_server = network.connect(listener)  # no entry is left: plain TCP
    plain.sendall(b"x")
    assert read_exactly(plain_server, 1) == b"x"
    assert c.find(tuple_of(plain)) is None and len(c.entries()) == 2
    entry = find(c, pairs[0][0])
    c.abort(begin(c, entry, network.s2))
    c.remove(entry)
    c.remove(entry)  # nothing more happens
    assert c.find(entry.four_tuple) is None and len(c.entries()) == 1
    with pytest.raises(ValueError, match="read it again"):
        begin(c, entry, network.s2)
    s.refill_keys()
    pairs[0][0].sendall(b"y")  # a removed connection is a plain one
    assert read_exactly(pairs[0][1], 1) == b"y"
    third = find(c, network.connect(listener)[0])
    assert third.index == entry.index and third.cookie != entry.cookie
    c.remove(entry)
    assert c.entry(third.index) == third


def test_closed_and_stale(network: Network) -> None:
    c, s = network.attach()
    listener = network.listener()
    client, server = network.connect(listener, 5555)
    entry = find(c, client)
    c.events()
    server.close()
    assert client.recv(1) == b""
    client.close()
    until(lambda: c.entry(entry.index).closed)
    assert [(e.kind, e.index) for e in c.events()] == [(EventKind.CLOSED, entry.index)]
    with pytest.raises(ValueError, match="closed"):
        begin(c, c.entry(entry.index), network.s2)
    again, _ = network.connect(listener, 5555)  # the same 4-tuple: a new connection owns it
    new = find(c, again)
    assert c.entry(entry.index).stale and new.index != entry.index and new.key != entry.key
    c.remove(entry)
    assert find(c, again) == new
    s.unlisten(PORT)
    again.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    again.close()
    plain, _ = network.connect(listener, 5555)
    assert c.find(tuple_of(plain)) is None and c.entry(new.index).stale
    assert s.accepted(FourTuple(network.s1, Endpoint(network.client_ip, 5555))) is None


def test_pins_outlive_the_agent(network: Network, tmp_path: Path) -> None:
    run("mount", "-t", "bpf", "bpf", str(tmp_path))
    network.stack.callback(run, "umount", str(tmp_path))
    pins = tmp_path / "mtcp"
    server = network.server.attach("s0")
    network.stack.callback(server.close)
    server.listen(PORT)
    c = network.client.attach("c0", pin_dir=pins, capacity=16)
    client, s1 = network.connect(network.listener())
    entry = begin(c, find(c, client), network.s2)
    s2 = take_over(network, s1)
    accept(network, entry)
    s2.sendall(b"two")
    assert read_exactly(client, 3) == b"two"
    c.close()
    client.sendall(b"nobody is watching")
    assert read_exactly(s2, 18) == b"nobody is watching"
    c = network.client.attach("c0", pin_dir=pins)
    assert c.capacity == 16 and c.entry(entry.index).current == network.s2
    assert [e.kind for e in c.events()] == [EventKind.ESTABLISHED, EventKind.COMMITTED]
    c.remove(c.entry(entry.index))
    assert c.entries() == []
    c.detach()
    assert not pins.exists()
    late, _ = network.connect(network.listener(PORT + 1))
    assert tuple_of(late).remote.port == PORT + 1


def test_errors_say_what_to_do(network: Network, tmp_path: Path) -> None:
    with pytest.raises(DatapathError, match="no interface 'nosuch'"):
        network.client.attach("nosuch")
    with pytest.raises(DatapathError, match="no BPF file system"):
        network.client.attach("c0", pin_dir=tmp_path / "pins")
    with pytest.raises(DatapathError, match="not a cgroup v2 directory"):
        Datapath.attach(tmp_path, ["lo"])
    with network.client.inside():
        os.seteuid(65534)  # no capabilities
        try:
            with pytest.raises(DatapathError, match="run as root"):
                Datapath.attach(network.client.cgroup, ["c0"])
        finally:
            os.seteuid(0)


def test_repeated_synacks_carry_the_same_key(network: Network) -> None:
    _, s = network.attach()
    network.connect(network.listener())  # so that the client knows the server's address on the link
    ghost, server = Endpoint(network.ghost_ip, 7777), network.s1  # nobody is there to answer
    run("ip", "-n", network.server.name, "neigh", "add", ghost.ip, "lladdr", "02:00:00:00:00:09", "dev", "s0")
    tap = network.server.capture("s0")
    capable = b"\xfd\x08MT\x11\0\0\0"
    for _ in range(2):
        raw_segment(network.client, ghost, server, 1000, 0, 0x02, capable)
        time.sleep(0.6)  # the kernel answers repeated SYNs twice a second
    synacks = [x.options for x in segments(tap) if x.flags == 0x12]
    assert len(synacks) >= 2 and len({o[o.index(b"MT") + 6 :] for o in synacks}) == 1
    raw_segment(network.client, ghost, server, 5000, 0, 0x04, b"")
    assert s.accepted(FourTuple(server, ghost)) is None


def test_unknown_versions_and_lengths_get_plain_answers(network: Network) -> None:
    network.attach()
    network.connect(network.listener())  # so that the client knows the server's address on the link
    ghost, server = network.ghost_ip, network.s1
    run("ip", "-n", network.server.name, "neigh", "add", ghost, "lladdr", "02:00:00:00:00:09", "dev", "s0")
    tap = network.server.capture("s0")
    options = (b"\xfd\x08MT\x12\0\0\0", b"\xfd\x0cMT\x11" + bytes(7), b"\xfd\x08MU\x11\0\0\0", b"\xfd\x04MT")
    for port, option in enumerate(options, 7000):
        raw_segment(network.client, Endpoint(ghost, port), server, 1000, 0, 0x02, option)
    answers = [x for x in segments(tap) if x.flags == 0x12]
    assert {x.dport for x in answers} == {7000, 7001, 7002, 7003}
    assert not any(x.has_ours() for x in answers)


def test_syn_cookies_mean_plain(network: Network) -> None:
    c, s = network.attach()
    with network.server.inside():
        Path("/proc/sys/net/ipv4/tcp_syncookies").write_text("2")  # for every SYN
    tap = network.server.capture("s0")
    client, server = network.connect(network.listener())
    client.sendall(b"x")
    assert read_exactly(server, 1) == b"x"
    assert [x.flags for x in segments(tap) if x.has_ours()] == [0x02]
    assert c.find(tuple_of(client)) is None and s.accepted(tuple_of(server)) is None
