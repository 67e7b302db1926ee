"""The M-TCP option, byte by byte."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mtcp.address import Endpoint, FourTuple
from mtcp.errors import Reason, RemoteProtocolError
from mtcp.wire import options
from mtcp.wire.options import (
    Abort,
    AbortAck,
    Accept,
    Ack3,
    AddServers,
    AddServersAck,
    AnyOption,
    Capable,
    Hint,
    HintAck,
    HintAnswer,
    HintReason,
    Migrate,
    Query,
    Refusal,
    Reject,
    SignedOption,
)

pytestmark = pytest.mark.unit
MAC = bytes.fromhex("a1a2a3a4a5a6a7a8")
KEY = b"8 bytes!"
S1, S2 = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 8080)
S6, CLIENT = Endpoint("2001:db8::1", 80), Endpoint("10.0.0.9", 50000)

# kind length ExID | subtype and version, flags | body
GOLDEN: list[tuple[AnyOption, str]] = [
    (Capable(), "fd084d54 1100 0000"),
    (Capable(bytes.fromhex("0102030405060708")), "fd104d54 1100 0000 0102030405060708"),
    (Migrate(S1, 0x11223344, 7, MAC), "fd1c4d54 2100 0a000001 0050 11223344 00000007 a1a2a3a4a5a6a7a8"),
    (
        Migrate(S6, 0xFFFFFFFF, 0x00FFFFFF, MAC),
        "fd284d54 2101 20010db8000000000000000000000001 0050 ffffffff 00ffffff a1a2a3a4a5a6a7a8",
    ),
    (Accept(7, MAC), "fd124d54 3100 00000007 a1a2a3a4a5a6a7a8"),
    (Ack3(7, MAC), "fd124d54 4100 00000007 a1a2a3a4a5a6a7a8"),
    (AddServers(3, 0, 2, (S1, S2), MAC), "fd1e4d54 5100 a1a2a3a4a5a6a7a8 0003 00 02 0a0000010050 0a0000021f90"),
    (
        AddServers(3, 1, 2, (S6,), MAC),
        "fd244d54 5101 a1a2a3a4a5a6a7a8 0003 01 02 20010db80000000000000000000000010050",
    ),
    (AddServers(1, 0, 1, (), MAC), "fd124d54 5100 a1a2a3a4a5a6a7a8 0001 00 01"),
    (AddServersAck(3, MAC), "fd104d54 6100 0003 a1a2a3a4a5a6a7a8"),
    (Reject(7, Reason.BUSY, MAC), "fd144d54 7100 00000007 0006 a1a2a3a4a5a6a7a8"),
    (Abort(7, MAC), "fd124d54 8100 00000007 a1a2a3a4a5a6a7a8"),
    (AbortAck(7, MAC), "fd124d54 9100 00000007 a1a2a3a4a5a6a7a8"),
    (Query(7, MAC), "fd124d54 a100 00000007 a1a2a3a4a5a6a7a8"),
    (Refusal(7, KEY, MAC), "fd1a4d54 d100 00000007 3820627974657321 a1a2a3a4a5a6a7a8"),
    (Hint(5, HintReason.DRAIN, None, MAC), "fd134d54 b100 a1a2a3a4a5a6a7a8 00000005 04"),
    (Hint(5, HintReason.OVERLOAD, S2, MAC), "fd194d54 b100 a1a2a3a4a5a6a7a8 00000005 01 0a0000021f90"),
    (
        Hint(5, HintReason.ATTACK, S6, MAC),
        "fd254d54 b101 a1a2a3a4a5a6a7a8 00000005 03 20010db80000000000000000000000010050",
    ),
    (HintAck(5, HintAnswer.NOT_NOW, MAC), "fd144d54 c100 00000005 0003 a1a2a3a4a5a6a7a8"),
]
golden = pytest.mark.parametrize(("option", "text"), GOLDEN, ids=lambda value: type(value).__name__)

u16, u32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
eight = st.binary(min_size=8, max_size=8)
v4 = st.builds(Endpoint, st.ip_addresses(v=4).map(str), u16)
v6 = st.builds(Endpoint, st.ip_addresses(v=6).map(str), u16)
index_of_total = st.tuples(st.integers(0, 254), st.integers(1, 255)).filter(lambda pair: pair[0] < pair[1])
server_lists = st.lists(v4, max_size=3) | st.lists(v6, max_size=1)
any_option: st.SearchStrategy[AnyOption] = st.one_of(
    st.builds(Capable, st.none() | eight),
    st.builds(Migrate, v4 | v6, u32, u32, eight),
    st.builds(Accept, u32, eight),
    st.builds(Ack3, u32, eight),
    st.builds(
        lambda version, pair, servers, mac: AddServers(version, pair[0], pair[1], tuple(servers), mac),
        u16,
        index_of_total,
        server_lists,
        eight,
    ),
    st.builds(AddServersAck, u16, eight),
    st.builds(Reject, u32, st.sampled_from(Reason), eight),
    st.builds(Abort, u32, eight),
    st.builds(AbortAck, u32, eight),
    st.builds(Query, u32, eight),
    st.builds(Refusal, u32, eight, eight),
    st.builds(Hint, u32, st.sampled_from(HintReason), st.none() | v4 | v6, eight),
    st.builds(HintAck, u32, st.sampled_from(HintAnswer), eight),
)


@golden
def test_bytes(option: AnyOption, text: str) -> None:
    wire = bytes.fromhex(text)
    assert options.encode(option) == wire
    assert options.decode(wire) == option


@given(any_option, st.binary(max_size=8))
def test_round_trip_whatever_follows(option: AnyOption, rest: bytes) -> None:
    wire = options.encode(option)
    assert len(wire) == wire[1] <= options.MAX_LENGTH
    assert options.decode(wire + rest) == option


@golden
def test_cut_at_every_length(option: AnyOption, text: str) -> None:
    wire = bytes.fromhex(text)
    for length in range(len(wire)):
        with pytest.raises(RemoteProtocolError):
            options.decode(wire[:length])


@golden
def test_wrong_length_field(option: AnyOption, text: str) -> None:
    """The bytes are there, but the option claims to be one byte shorter or longer than its subtype allows."""
    wire = bytes.fromhex(text)
    for length in (len(wire) - 1, len(wire) + 1):
        with pytest.raises(RemoteProtocolError):
            options.decode(wire[:1] + bytes([length]) + wire[2:] + b"\0")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fe084d54 1100 0000", "not an M-TCP option"),  # kind 254
        ("fd084d55 1100 0000", "not an M-TCP option"),  # another ExID
        ("fd054d54 1100 0000", "length is wrong"),
        ("fd094d54 1200 0000", "length is wrong"),
        ("fd084d54 1200 0000", "version 2"),
        ("fd084d54 1000 0000", "version 0"),
        ("fd084d54 0100 0000", "unknown subtype 0"),
        ("fd084d54 e100 0000", "unknown subtype 14"),
        ("fd084d54 f100 0000", "unknown subtype 15"),
        ("fd144d54 7100 00000007 0000 a1a2a3a4a5a6a7a8", "unknown reason"),
        ("fd144d54 7100 00000007 ffff a1a2a3a4a5a6a7a8", "unknown reason"),
        ("fd134d54 b100 a1a2a3a4a5a6a7a8 00000005 00", "unknown reason"),
        ("fd194d54 b101 a1a2a3a4a5a6a7a8 00000005 01 0a0000021f90", "body of 19"),  # IPv4 flagged as IPv6
        ("fd144d54 c100 00000005 0004 a1a2a3a4a5a6a7a8", "unknown answer"),
        ("fd124d54 5100 a1a2a3a4a5a6a7a8 0001 01 01", "segment 1 of 1"),
        ("fd124d54 5100 a1a2a3a4a5a6a7a8 0001 00 00", "segment 0 of 0"),
        ("fd1e4d54 5101 a1a2a3a4a5a6a7a8 0003 00 02 0a0000010050 0a0000021f90", "body of 24"),  # IPv4 flagged as IPv6
        ("fd1c4d54 2101 0a000001 0050 11223344 00000007 a1a2a3a4a5a6a7a8", "expected 34"),
    ],
)
def test_malformed(text: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        options.decode(bytes.fromhex(text))


def test_longer_than_a_tcp_header_allows() -> None:
    with pytest.raises(RemoteProtocolError, match="length is wrong"):
        options.decode(bytes.fromhex("fd294d54 2101") + bytes(40))
    four = AddServers(1, 0, 1, (S1,) * 4)
    with pytest.raises(ValueError, match="needs 42 bytes"):
        options.encode(four)


@given(st.binary(max_size=60))
@example(b"\xfd\x06\x4d\x54\x51\x00")
@example(b"\xfd\x12\x4d\x54\x51\xff" + bytes(12))
def test_garbage_is_the_senders_error_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        options.decode(data)
    options.find(data)


@given(any_option, st.data())
def test_one_wrong_byte_never_crashes(option: AnyOption, data: st.DataObject) -> None:
    wire = bytearray(options.encode(option))
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RemoteProtocolError):
        options.decode(bytes(wire))


# -- among other options

CAPABLE = "fd084d54 1100 0000"


@pytest.mark.parametrize(
    "text",
    [
        CAPABLE,
        "020405b4 0402 080a0000000100000000 01 030307" + CAPABLE,  # Linux's SYN
        "01 01 01" + CAPABLE + "00",
        "fd04f989" + CAPABLE,  # somebody else's experiment (TCP Fast Open, RFC 6994) comes first
        "fd02" + CAPABLE,  # kind 253 without an ExID
        "fd084d54 1200 0000" + CAPABLE,  # ours, of a version to come
    ],
)
def test_find(text: str) -> None:
    assert options.find(bytes.fromhex(text)) == Capable()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00" + CAPABLE,  # after the end of the list
        "0200" + CAPABLE,  # lengths that would loop or stand still
        "0201" + CAPABLE,
        "02",
        "020405b4 fd",
        "02ff05b4" + CAPABLE,
        "fd084d54 1100",
        "fd084d54 1200 0000",
        "fd00" + CAPABLE,
    ],
)
def test_find_nothing(text: str) -> None:
    assert options.find(bytes.fromhex(text)) is None


# -- MACs


def _mac(label: str, *fields: bytes) -> bytes:
    """The construction of mtcp.keys, once more."""
    message = label.encode() + b"".join(struct.pack("!H", len(f)) + f for f in fields)
    return hashlib.blake2b(message, key=KEY, digest_size=8).digest()


def test_what_the_macs_are_over() -> None:
    signed = Migrate(S1, 5, 7).signed(KEY, CLIENT, S2)
    ends = (b"\x0a\0\0\x01\0\x50", b"\x0a\0\0\x09\xc3\x50", b"\x0a\0\0\x02\x1f\x90")
    assert signed.mac == _mac("MIGRATE", *ends, struct.pack("!II", 5, 7))
    assert options.migrate_mac(KEY, FourTuple(S1, CLIENT), S2, 5, 7) == signed.mac
    assert Accept(7).signed(KEY).mac == _mac("ACCEPT", struct.pack("!I", 7))
    assert Ack3(7).signed(KEY).mac == _mac("ACK3", struct.pack("!I", 7))
    assert Abort(7).signed(KEY).mac == _mac("ABORT", struct.pack("!I", 7))
    assert AbortAck(7).signed(KEY).mac == _mac("ABORTACK", struct.pack("!I", 7))
    assert Query(7).signed(KEY).mac == _mac("QUERY", struct.pack("!I", 7))
    assert Refusal(7, MAC).signed(KEY).mac == _mac("REFUSAL", struct.pack("!I", 7) + MAC)
    assert Hint(5, HintReason.DRAIN).signed(KEY).mac == _mac("HINT", bytes.fromhex("00000005 04"))
    hint = Hint(5, HintReason.DRAIN, S1).signed(KEY)
    assert hint.mac == _mac("HINT", bytes.fromhex("00000005 04 0a0000010050"))
    assert HintAck(5, HintAnswer.NOWHERE).signed(KEY).mac == _mac("HINT_ACK", struct.pack("!IH", 5, 2))
    assert AddServersAck(3).signed(KEY).mac == _mac("ADD_SERVERS_ACK", b"\0\x03")
    listed = bytes.fromhex("0003 00 01 0a0000010050")
    assert AddServers(3, 0, 1, (S1,)).signed(KEY).mac == _mac("ADD_SERVERS", listed)


@pytest.mark.parametrize(
    "changed",
    [
        (S2, CLIENT, S2, 5, 7),
        (Endpoint("10.0.0.1", 81), CLIENT, S2, 5, 7),
        (S1, Endpoint("10.0.0.9", 50001), S2, 5, 7),
        (S1, Endpoint("10.0.0.8", 50000), S2, 5, 7),
        (S1, CLIENT, S1, 5, 7),
        (S1, CLIENT, S2, 6, 7),
        (S1, CLIENT, S2, 5, 8),
        (CLIENT, S1, S2, 5, 7),
    ],
)
def test_a_changed_field_changes_the_mac_of_migrate(changed: tuple[Endpoint, Endpoint, Endpoint, int, int]) -> None:
    old, client, new, rcv_nxt, attempt = changed
    right = options.migrate_mac(KEY, FourTuple(S1, CLIENT), S2, 5, 7)
    assert options.migrate_mac(KEY, FourTuple(old, client), new, rcv_nxt, attempt) != right


SIGNED: list[tuple[SignedOption, dict[str, Any]]] = [
    (Accept(7), {"attempt": 8}),
    (Ack3(7), {"attempt": 8}),
    (Abort(7), {"attempt": 8}),
    (AbortAck(7), {"attempt": 8}),
    (Query(7), {"attempt": 8}),
    (Refusal(7, MAC), {"attempt": 8, "abort": KEY}),
    (Hint(5, HintReason.DRAIN, S1), {"number": 6, "reason": HintReason.ATTACK, "preferred": S2}),
    (HintAck(5, HintAnswer.WILL_MOVE), {"number": 6, "answer": HintAnswer.DECLINED}),
    (AddServersAck(3), {"version": 4}),
    (AddServers(3, 0, 2, (S1,)), {"version": 4, "index": 1, "total": 3, "servers": (S2,)}),
]


@pytest.mark.parametrize(("option", "changes"), SIGNED, ids=lambda value: type(value).__name__)
def test_is_authentic(option: SignedOption, changes: dict[str, Any]) -> None:
    signed = option.signed(KEY)
    assert options.is_authentic(signed, KEY)
    assert not options.is_authentic(option, KEY)
    assert not options.is_authentic(signed, b"8 bytes?")
    for field, value in changes.items():
        assert not options.is_authentic(replace(signed, **{field: value}), KEY), field


def test_a_mac_is_of_one_kind_of_message() -> None:
    """An ACK3 is no ABORT, although both carry an attempt and a MAC."""
    kinds = (Accept, Ack3, Abort, AbortAck, Query, Refusal)
    assert len({kind(7).signed(KEY).mac for kind in kinds}) == len(kinds)


# -- the list of servers in segments


@given(st.lists(v4 | v6, max_size=20))
def test_split_carries_every_server_once(servers: list[Endpoint]) -> None:
    segments = AddServers.split(3, servers)
    assert [s.index for s in segments] == list(range(len(segments)))
    assert {s.total for s in segments} == {len(segments)}
    again = [options.decode(options.encode(s.signed(KEY))) for s in segments]
    assert sorted(e for s in again if isinstance(s, AddServers) for e in s.servers) == sorted(servers)
