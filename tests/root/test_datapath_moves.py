"""The datapath on real kernel TCP: begin, commit and abort, and the stream after a move."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtcp import seq
from mtcp.address import Endpoint
from mtcp.linux.datapath import Entry, EntryState, EventKind
from mtcp.wire import options
from tests.root.two_hosts import (
    FAMILIES,
    PORT,
    TCP_REPAIR,
    Network,
    accept,
    begin,
    find,
    numbers,
    raw_segment,
    read_exactly,
    segments,
    silent,
    take_over,
    tuple_of,
    two_hosts,
    until,
)

pytestmark = pytest.mark.root


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    with two_hosts(request.param) as made:
        yield made


def test_begin_holds_both_ways_and_abort_lets_go(network: Network) -> None:
    c, _ = network.attach()
    client, server = network.connect(network.listener())
    entry = begin(c, find(c, client), network.s2)
    assert (entry.state, entry.next, entry.attempt) == (EntryState.MIGRATING, network.s2, 1)
    client.sendall(b"up")
    server.sendall(b"down")
    assert silent(server) and silent(client)
    counters = c.entry(entry.index).counters
    assert counters["held"] > 0 and counters["deaf_dropped"] > 0
    with pytest.raises(ValueError, match="MIGRATING"):
        begin(c, c.entry(entry.index), network.s2)
    assert c.abort(entry) and c.abort(entry)
    assert c.entry(entry.index).state is EntryState.TRACKED
    assert read_exactly(client, 4) == b"down" and read_exactly(server, 2) == b"up"
    with pytest.raises(ValueError, match="already at"):
        begin(c, c.entry(entry.index), network.s1)
    with pytest.raises(ValueError, match="address family"):
        begin(c, c.entry(entry.index), Endpoint("192.0.2.1" if ":" in network.s1.ip else "2001:db8::1", 80))
    with pytest.raises(ValueError, match="read it again"):
        begin(c, find_stale_word(entry), network.s2)
    assert begin(c, c.entry(entry.index), network.s2).attempt == 2


def find_stale_word(entry: Entry) -> Entry:
    """The entry as it was before it began to move."""
    return dataclasses.replace(entry, state=EntryState.TRACKED, word=1)


def test_accept_of_the_next_server_commits(network: Network) -> None:
    c, _ = network.attach()
    client, s1 = network.connect(network.listener())
    s1.sendall(b"one")
    assert read_exactly(client, 3) == b"one"
    until(lambda: find(c, client).rcv_nxt == numbers(client)[0])
    c.events()
    entry = begin(c, find(c, client), network.s2)
    s2 = take_over(network, s1)
    client.sendall(b"held")
    for flags in (0x04, 0x14, 0x12, 0x10):  # RST, RST+ACK, SYN+ACK; of an earlier time, an ACK: no commit
        raw_segment(network.server, network.s2, entry.four_tuple.local, entry.rcv_nxt, entry.snd_nxt, flags, b"")
    accept(network, dataclasses.replace(entry, attempt=entry.attempt - 1))
    accept(network, dataclasses.replace(entry, next=entry.current))
    time.sleep(0.05)
    assert c.entry(entry.index).state is EntryState.MIGRATING
    assert c.entry(entry.index).counters["rst_dropped"] == 2
    before = time.monotonic_ns()
    accept(network, entry)
    s2.sendall(b"two")
    assert read_exactly(client, 3) == b"two"
    assert read_exactly(s2, 4) == b"held"
    moved = c.entry(entry.index)
    assert (moved.state, moved.current, moved.next, moved.moved) == (EntryState.TRACKED, network.s2, None, True)
    assert before < moved.committed_at_ns < time.monotonic_ns()
    assert [(e.kind, e.index) for e in c.events()] == [(EventKind.COMMITTED, entry.index)]
    assert not c.abort(entry)
    assert find(c, client) == c.entry(entry.index)
    assert client.getpeername()[:2] == network.s1
    s1.sendall(b"late")  # the old server is not heard any more, its reset neither
    raw_segment(network.server, network.s1, entry.four_tuple.local, moved.rcv_nxt, 0, 0x04, b"")
    assert silent(client)
    counters = c.entry(entry.index).counters
    assert counters["other_dropped"] > 0 and counters["rst_dropped"] == 3
    client.sendall(b"more")
    assert read_exactly(s2, 4) == b"more"
    s2.close()
    assert client.recv(1) == b""


def test_aborted_attempt_cannot_commit(network: Network) -> None:
    c, _ = network.attach()
    client, s1 = network.connect(network.listener())
    entry = begin(c, find(c, client), network.s2)
    s2 = take_over(network, s1)
    assert c.abort(entry)
    accept(network, entry)
    s2.sendall(b"two")
    assert silent(client)
    assert c.entry(entry.index).current == network.s1
    s1.sendall(b"one")
    assert read_exactly(client, 3) == b"one"
    client.sendall(b"up")
    assert read_exactly(s1, 2) == b"up"


def test_forged_accept_does_not_commit(network: Network) -> None:
    """Addresses, ports and attempt are right, as an attacker off the path could guess them; the MAC is not."""
    c, _ = network.attach()
    client, _ = network.connect(network.listener())
    entry = begin(c, find(c, client), network.s2)
    right = options.Accept(entry.attempt).signed(entry.key).mac
    for mac in (bytes(8), right[:7] + bytes([right[7] ^ 1]), bytes([right[0] ^ 128]) + right[1:]):
        accept(network, entry, mac)
    accept(network, dataclasses.replace(entry, key=bytes(8)))
    until(lambda: c.entry(entry.index).counters["bad_mac"] == 4)
    assert c.entry(entry.index).word == entry.word
    assert [e.kind for e in c.events()] == [EventKind.ESTABLISHED]
    assert c.abort(entry)
    again = begin(c, find(c, client), network.s2)  # the MAC of an attempt is no good for the next one
    accept(network, again, right)
    until(lambda: c.entry(entry.index).counters["bad_mac"] == 5)
    accept(network, again)
    until(lambda: c.entry(entry.index).current == network.s2)


def test_abort_and_commit_exclude_each_other(network: Network) -> None:
    c, _ = network.attach()
    client, _ = network.connect(network.listener())
    home = find(c, client).current
    outcomes = set()
    for round_number in range(60):
        entry = find(c, client)
        other = network.s2 if entry.current == home else home
        entry = begin(c, entry, other)
        send = threading.Thread(target=accept, args=(network, entry))
        send.start()
        time.sleep(round_number % 20 * 0.0001)
        aborted = c.abort(entry)
        send.join()
        time.sleep(0.002)
        now = find(c, client)
        assert now.state is EntryState.TRACKED
        assert now.current == (entry.current if aborted else other)
        outcomes.add(aborted)
    assert outcomes == {True, False}


def test_abort_of_a_connection_that_is_gone(network: Network) -> None:
    """It says whether the move was committed before, and leaves another connection in the same entry alone."""
    c, s = network.attach(capacity=1)
    listener = network.listener()
    for committed in (False, True):
        entry = begin(c, find(c, network.connect(listener)[0]), network.s2)
        if committed:
            accept(network, entry)
            until(lambda at=entry.index: c.entry(at).moved)
        c.remove(entry)
        assert c.abort(entry) is not committed
        s.refill_keys()
    assert c.entry(entry.index).state is EntryState.FREE
    later = find(c, network.connect(listener)[0])
    assert (later.index, c.abort(entry), c.entry(later.index).word) == (entry.index, True, later.word)


def test_another_connection_to_the_next_server_forbids_the_move(network: Network) -> None:
    c, s = network.attach()
    s.listen(network.s2.port)
    client, _ = network.connect(network.listener(), 5556)
    with network.server.inside():
        second = network.kept(socket.create_server(network.s2, family=network.family))
    network.connect(second, 5556)
    with pytest.raises(ValueError, match="another connection"):
        begin(c, find(c, client), network.s2)


def test_bulk_in_both_directions_after_a_move(network: Network) -> None:
    """Large packets (GSO, GRO) and checksums: byte for byte."""
    c, _ = network.attach()
    client, s1 = network.connect(network.listener())
    entry = begin(c, find(c, client), network.s2)
    s2 = take_over(network, s1)
    accept(network, entry)
    data = os.urandom(16 << 20)
    for sender, receiver in ((s2, client), (client, s2)):
        thread = threading.Thread(target=sender.sendall, args=(data,))
        thread.start()
        assert read_exactly(receiver, len(data)) == data
        thread.join()
    counters = c.entry(entry.index).counters
    assert c.entry(entry.index).moved
    assert counters["ingress"] < len(data) / 1448  # large packets were among them


def test_never_acknowledges_what_the_next_server_has_not_sent(network: Network) -> None:
    """S1's last bytes reached the client, but their acknowledgement did not go out: S2 sends them again."""
    c, _ = network.attach()
    client, s1 = network.connect(network.listener())
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # acknowledge late
    before = find(c, client)
    s1.sendall(b"one")
    assert read_exactly(client, 3) == b"one"
    entry = begin(c, find(c, client), network.s2)
    assert entry.rcv_nxt == before.rcv_nxt
    s2 = take_over(network, s1, repeat=3)
    accept(network, entry)
    tap = network.server.capture("s0")
    for part in (b"o", b"ne", b"two"):
        s2.sendall(part)
        settle(s2)
        sent = numbers(s2)[1]
        assert find(c, client).rcv_nxt == sent
    assert read_exactly(client, 3) == b"two"
    assert find(c, client).counters["clamped"] > 0
    acknowledged = {seq.diff(x.ack, before.rcv_nxt) for x in segments(tap) if x.destination == network.s2.ip}
    assert acknowledged == {1, 3, 6}


@pytest.mark.parametrize("timestamps", [True, False])
def test_what_is_behind_a_gap_is_not_told_to_the_next_server(network: Network, timestamps: bool) -> None:
    """S1's data came with a gap. S2 sends all of it again, and would take the gap for a loss of its own."""
    with network.client.inside():
        Path("/proc/sys/net/ipv4/tcp_timestamps").write_text(str(int(timestamps)))
    c, _ = network.attach()
    client, s1 = network.connect(network.listener())
    entry = find(c, client)
    local, remote = entry.four_tuple
    tap = network.server.capture("s0")
    raw_segment(network.server, remote, local, seq.add(entry.rcv_nxt, 4), entry.snd_nxt, 0x10, payload=b"late")
    assert [x.has_sack() for x in segments(tap) if x.dport == PORT] == [True]
    entry = begin(c, find(c, client), network.s2)
    s2 = take_over(network, s1)
    accept(network, entry)
    for part in (b"ab", b"cdlate"):
        s2.sendall(part)
        settle(s2)
    assert read_exactly(client, 8) == b"abcdlate"
    told = [x for x in segments(tap) if x.destination == network.s2.ip and seq.diff(x.ack, entry.rcv_nxt) < 8]
    assert told
    assert not any(x.has_sack() for x in told)
    # What comes with a gap from here on was sent by S2.
    ahead = seq.add(find(c, client).rcv_nxt, 6)
    raw_segment(network.server, network.s2, local, ahead, entry.snd_nxt, 0x10, payload=b"more")
    assert [x.has_sack() for x in segments(tap) if x.destination == network.s2.ip] == [True]


def outstanding(sock: socket.socket) -> int:
    """Bytes not acknowledged yet."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def test_there_and_back_and_on(network: Network) -> None:
    """Moves one after another use the two slots in turn, the original server among them."""
    c, _ = network.attach()
    client, server = network.connect(network.listener())
    places = [Endpoint(network.s2.ip, 9001), Endpoint(network.s2.ip, 9002), network.s1, Endpoint(network.s1.ip, 9003)]
    for attempt, place in enumerate(places, 1):
        entry = begin(c, find(c, client), place)
        old, server = server, take_over(network, server, place)
        old.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # closes without a packet
        old.close()
        accept(network, entry)
        message = str(place).encode()
        server.sendall(message)
        assert read_exactly(client, len(message)) == message
        client.sendall(message)
        assert read_exactly(server, len(message)) == message
        settle(client, server)
        now = find(c, client)
        assert (now.current, now.attempt, now.moved) == (place, attempt, place != entry.four_tuple.remote)
    c.remove(find(c, client))
    assert c.entries() == []


def settle(*sockets: socket.socket) -> None:
    """Wait until all is acknowledged."""
    until(lambda: not any(outstanding(sock) for sock in sockets))


def test_late_segments_of_a_connection_that_has_left_are_not_answered(network: Network) -> None:
    """But those of a new connection with the same addresses are."""
    _, datapath = network.attach()
    listener = network.listener()
    client, server = network.connect(listener)
    four_tuple = tuple_of(server)
    tap = network.client.capture("c0")
    datapath.departed(four_tuple)
    server.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    server.close()
    client.sendall(b"late")
    assert not any(segment.flags & 4 for segment in segments(tap))
    datapath.returned(four_tuple)
    until(lambda: any(segment.flags & 4 for segment in segments(tap)))
    datapath.departed(four_tuple)
    client.close()
    again, answering = network.connect(listener, four_tuple.remote.port)
    again.sendall(b"hello")
    assert read_exactly(answering, 5) == b"hello"


def test_a_new_connection_to_where_an_old_one_of_its_port_had_moved(network: Network) -> None:
    """The old one is in TIME_WAIT, and its mapping is still there; on the wire both have the same addresses."""
    c, _ = network.attach()
    client, server = network.connect(network.listener())
    port = tuple_of(client).local.port
    entry = begin(c, find(c, client), network.s2)
    taken = take_over(network, server, network.s2)
    server.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # closes without a packet
    server.close()
    accept(network, entry)
    client.sendall(b"bye")
    assert read_exactly(taken, 3) == b"bye"
    client.close()
    assert taken.recv(1) == b""
    taken.close()
    until(lambda: c.entry(entry.index).closed)
    tap = network.client.capture("c0")
    with network.server.inside():
        listener = network.kept(socket.create_server(network.s2, family=network.family))
    again, answering = network.connect(listener, port)
    for source, destination in ((again, answering), (answering, again)):
        source.sendall(b"hello")
        assert read_exactly(destination, 5) == b"hello"
    found = segments(tap)
    assert not any(segment.flags & 4 for segment in found)
    assert sum(segment.flags & 0x12 == 2 for segment in found) == 1, "the SYN was repeated"
