"""The ring of the delay line: what comes leaves, in order and unchanged, however full it is."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from testbed.emulation.slots import COUNT, SIZE, Slots

BATCH = 8
"""Datagrams that a unix socket holds without being asked."""


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, ...]]:
    """What the ring reads, written to by the first; what it writes, read from by the last."""
    pairs = [
        *socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
        *socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
    ]
    for each in pairs:
        each.setblocking(False)
    yield tuple(pairs)
    for each in pairs:
        each.close()


def packet(number: int) -> bytes:
    """Of any length; some are super-packets."""
    return struct.pack("=I", number) + bytes([number % 256]) * (60_000 if number % 1000 == 7 else number % 97)


def test_many_pass_while_many_are_under_way(sockets: tuple[socket.socket, ...]) -> None:
    source, into, out, sink = sockets
    slots = Slots()
    sent = seen = 0
    while seen < 3 * COUNT:
        while sent < 3 * COUNT and slots.head - slots.tail <= COUNT - BATCH:  # nearly full, all the time
            for _ in range(BATCH):
                source.send(packet(sent))
                sent += 1
            while slots.head < sent:
                assert slots.receive(into.fileno()) > 0
        assert slots.send(out.fileno(), BATCH) == {}
        for _ in range(BATCH):
            assert sink.recv(SIZE) == packet(seen)
            seen += 1
    assert slots.receive(into.fileno()) == 0
    assert (slots.head, slots.tail, slots.full) == (sent, sent, False)


def test_what_is_refused_is_counted_and_not_sent_again(sockets: tuple[socket.socket, ...]) -> None:
    source, into, out, sink = sockets
    out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # room for a few
    slots = Slots()
    for number in range(40):
        source.send(struct.pack("=I", number))
        assert slots.receive(into.fileno()) == 1
    slots.drop(2)
    refused = slots.send(out.fileno(), 38)
    assert slots.tail == 40
    taken = 38 - sum(refused.values())
    assert 0 < taken < 37
    assert refused == {errno.ENOBUFS: 1, errno.EAGAIN: 37 - taken}
    assert [struct.unpack("=I", sink.recv(SIZE))[0] for _ in range(taken)] == list(range(2, 2 + taken))
    with pytest.raises(BlockingIOError):
        sink.recv(SIZE)


def test_a_full_ring_takes_no_more(sockets: tuple[socket.socket, ...]) -> None:
    source, into, _, _ = sockets
    slots = Slots()
    while not slots.full:
        for _ in range(BATCH):
            source.send(b"x")
        while slots.receive(into.fileno()):
            pass
    assert slots.head == COUNT
    source.send(b"x")
    assert slots.receive(into.fileno()) == 0
    slots.drop(COUNT)
    assert slots.receive(into.fileno()) == 1
