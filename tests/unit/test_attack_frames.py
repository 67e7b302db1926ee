"""Floods' frames: as scapy would build them, and none like another."""

from __future__ import annotations

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from mtcp.address import Endpoint
from mtcp.linux.segments import TcpFlags, parse
from mtcp.wire.options import Migrate
from testbed.attack import moves, syn
from testbed.attack.frames import Frames, forged
from testbed.attack.sender import Way

WAY = Way("eth0", "10.0.0.102", "02:00:00:00:00:01", "02:00:00:00:00:02")
SOURCES = forged("10.0.0.128/25")
TARGET, OLD = Endpoint("10.0.0.2", 7001), Endpoint("10.0.0.1", 7001)
SIZE = 64


def floods(seed: int = 1) -> dict[str, Frames]:
    return {
        "syn": syn.frames(WAY, TARGET.ip, TARGET.port, SOURCES, seed, SIZE),
        "syn, own address": syn.frames(WAY, TARGET.ip, TARGET.port, None, seed, SIZE),
        "syn, with data": syn.frames(WAY, TARGET.ip, TARGET.port, SOURCES, seed, SIZE, payload=1000),
        "moves": moves.frames(WAY, TARGET, OLD, SOURCES, seed, SIZE),
    }


@pytest.mark.parametrize("name", list(floods()))
def test_checksums_are_scapys(name: str) -> None:
    batch = floods()[name]
    for _ in range(3):
        for row in batch.rows:
            frame = Ether(row.tobytes())
            del frame[IP].chksum, frame[TCP].chksum
            assert bytes(frame) == row.tobytes()
        batch.renew()


@pytest.mark.parametrize("name", list(floods()))
def test_the_same_seed_gives_the_same_frames_and_another_others(name: str) -> None:
    first, again, other = floods()[name], floods()[name], floods(2)[name]
    for _ in range(3):
        assert np.array_equal(first.rows, again.rows) and not np.array_equal(first.rows, other.rows)
        for batch in (first, again, other):
            batch.renew()


def test_syns_come_from_the_network_that_was_asked_for_and_no_two_are_alike() -> None:
    frames = [Ether(row.tobytes()) for row in floods()["syn"].rows]
    assert len({bytes(frame) for frame in frames}) == SIZE
    sources = {frame[IP].src for frame in frames}
    assert all(128 < int(source.rpartition(".")[2]) < 255 and source.startswith("10.0.0.") for source in sources)
    assert len(sources) > SIZE / 4
    assert all(frame[TCP].flags == "S" and frame[TCP].sport >= 1024 for frame in frames)
    assert {(frame.src, frame.dst, frame[IP].dst, frame[TCP].dport) for frame in frames} == {
        (WAY.mac, WAY.next_mac, TARGET.ip, TARGET.port)
    }
    own = [Ether(row.tobytes()) for row in floods()["syn, own address"].rows]
    assert {frame[IP].src for frame in own} == {WAY.source}


def test_syns_carry_as_much_data_as_a_frame_has_room_for() -> None:
    for payload in (0, 1000, syn.MOST):
        frame = syn.frames(WAY, TARGET.ip, TARGET.port, SOURCES, 1, SIZE, payload).rows[0].tobytes()
        assert len(Ether(frame)[TCP].payload) == payload and len(frame) <= 14 + 1500
    for payload in (-2, 999, syn.MOST + 2):
        with pytest.raises(ValueError, match="an even number, 1440 at most"):
            syn.frames(WAY, TARGET.ip, TARGET.port, SOURCES, 1, SIZE, payload)


def test_forged_moves_are_well_formed_and_none_is_like_another() -> None:
    found = [parse(row[14:].tobytes()) for row in floods()["moves"].rows]
    assert all(isinstance(s.option, Migrate) and s.option.old_server == OLD and s.flags == TcpFlags.SYN for s in found)
    assert {s.four_tuple.local for s in found} == {TARGET}
    assert len({s.option.mac for s in found if isinstance(s.option, Migrate)}) == SIZE
    assert len({s.four_tuple.remote.ip for s in found}) > 10


@pytest.mark.parametrize("network", ["192.0.2.0/24", "0.0.0.0/0", "8.8.8.8/32", "10.0.0.1/32", "fd00::/64"])
def test_sources_are_the_testbeds(network: str) -> None:
    with pytest.raises(ValueError):
        forged(network)


def test_a_template_is_what_the_arithmetic_is_for() -> None:
    for frame in (b"\0" * 60, bytes(Ether() / IP() / TCP() / b"x")):
        with pytest.raises(ValueError, match="of even length"):
            Frames(frame, 4, 1, lambda _: None)
