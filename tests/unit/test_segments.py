"""Control segments as IP packets."""

from __future__ import annotations

import contextlib
import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtcp.address import Endpoint, FourTuple
from mtcp.errors import RemoteProtocolError
from mtcp.linux import segments
from mtcp.linux.segments import Segment, TcpFlags
from mtcp.wire.options import Ack3, AddServersAck, Migrate

pytestmark = pytest.mark.unit
CLIENT, SERVER = Endpoint("10.0.0.9", 50000), Endpoint("10.0.0.2", 80)
SYN = Segment(
    FourTuple(CLIENT, SERVER), 0x11223344, 0, TcpFlags.SYN, 502, Migrate(Endpoint("10.0.0.1", 80), 5, 7, b"mac mac ")
)
_IP = "45 00 0044 0000 4000 40 06 0000 0a000009 0a000002"
_TCP = "c350 0050 11223344 00000000 c0 02 01f6 %s 0000"
_OPTION = "fd1c4d54 2100 0a000001 0050 00000005 00000007 6d6163206d616320"


CLIENT6, SERVER6 = Endpoint("2001:db8::9", 50000), Endpoint("2001:db8::2", 80)
OLD6 = Endpoint("2001:db8:ffff:ffff:ffff:ffff:ffff:1", 80)
_IP6 = "60000000 003c 06 40 20010db8000000000000000000000009 20010db8000000000000000000000002"
_TCP6 = "c350 0050 11223344 00000000 f0 02 01f6 %s 0000"
_OPTION6 = "fd284d54 2101 20010db8ffffffffffffffffffff0001 0050 00000005 00000007 6d6163206d616320"


def internet_sum(data: bytes) -> int:
    """One's complement sum, 0xFFFF over a header with a right checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_bytes() -> None:
    packet = segments.build(SYN)
    checksum = packet[36:38].hex()
    assert packet == bytes.fromhex(_IP + _TCP % checksum + _OPTION)


def test_bytes_of_ipv6() -> None:
    """A MIGRATE with IPv6 addresses takes all the room for options that a TCP header has."""
    syn = dataclasses.replace(SYN, four_tuple=FourTuple(CLIENT6, SERVER6), option=Migrate(OLD6, 5, 7, b"mac mac "))
    packet = segments.build(syn)
    assert packet == bytes.fromhex(_IP6 + _TCP6 % packet[56:58].hex() + _OPTION6)
    assert internet_sum(packet[8:40] + struct.pack("!II", 60, 6) + packet[40:]) == 0xFFFF
    assert segments.parse(packet) == dataclasses.replace(syn, four_tuple=FourTuple(SERVER6, CLIENT6))
    for length in range(len(packet)):
        with pytest.raises(RemoteProtocolError):
            segments.parse(packet[:length])


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_checksum_and_round_trip(seq: int, ack: int, window: int, version: int) -> None:
    option = AddServersAck(version, b"12345678")
    packet = segments.build(Segment(FourTuple(CLIENT, SERVER), seq, ack, TcpFlags.ACK, window, option))
    pseudo = packet[12:20] + struct.pack("!HH", 6, len(packet) - 20)
    assert internet_sum(pseudo + packet[20:]) == 0xFFFF
    assert segments.parse(packet) == Segment(FourTuple(SERVER, CLIENT), seq, ack, TcpFlags.ACK, window, option)


def test_options_end_on_a_word() -> None:
    """The option of 18 bytes is padded by two NOPs, and found again."""
    ack3 = Segment(FourTuple(CLIENT, SERVER), 0, 0, TcpFlags.ACK, 0, Ack3(7, b"mac mac "))
    packet = segments.build(ack3)
    assert len(packet) == 20 + 20 + 20 and packet[32] >> 4 == 10 and packet[-2:] == b"\x01\x01"
    assert segments.parse(packet).option == ack3.option


def test_without_an_option() -> None:
    packet = segments.build(Segment(FourTuple(SERVER, CLIENT), 1, 2, TcpFlags.ACK, 3))
    assert len(packet) == 40
    with pytest.raises(RemoteProtocolError):
        segments.parse(packet)


def test_cut_at_every_length() -> None:
    packet = segments.build(SYN)
    for length in range(len(packet)):
        with pytest.raises(RemoteProtocolError):
            segments.parse(packet[:length])


@given(st.binary(max_size=100))
def test_garbage_is_the_senders_error_and_nothing_else(packet: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        segments.parse(packet)


def test_ip_options_are_skipped() -> None:
    packet = segments.build(SYN)
    longer = b"\x46" + packet[1:20] + b"\x94\x04\0\0" + packet[20:]
    assert segments.parse(longer) == segments.parse(packet)
