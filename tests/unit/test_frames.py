"""Frames between agents, byte by byte."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtcp.address import Endpoint, FourTuple
from mtcp.errors import Reason, RemoteProtocolError
from mtcp.snapshot import SoSnapshot, StateReply, TcpSnapshot
from mtcp.wire import frames
from mtcp.wire.frames import (
    Done,
    DoneAck,
    Frame,
    FrameReader,
    Query,
    Release,
    StateReject,
    StateReplyFrame,
    StateRequest,
)

pytestmark = pytest.mark.unit
OLD = FourTuple(Endpoint("10.0.0.1", 80), Endpoint("10.0.0.9", 50000))
NEW = FourTuple(Endpoint("10.0.0.2", 80), Endpoint("10.0.0.9", 50000))
OLD6 = FourTuple(Endpoint("2001:db8::1", 443), Endpoint("2001:db8::9", 65535))
TAG = b"mac mac "

# family, address in 16 bytes, port
_S1 = "04 0a000001 000000000000000000000000 0050"
_S2 = "04 0a000002 000000000000000000000000 0050"
_C = "04 0a000009 000000000000000000000000 c350"
_TAG = "6d6163206d616320"
_OLD6 = "06 20010db8000000000000000000000001 01bb  06 20010db8000000000000000000000009 ffff"

REPLY = StateReply(
    rcv_seq_snapshot=0x01020304,
    last_ack_sent=0x01020305,
    snd_seq_snapshot=0x11121317,
    snd_max_seen=0x11121314,
    snd_bytes_discard=0x0000000500000006,
    tcp_snapshot=TcpSnapshot(1, 2, 7, 1460, 8, 9, 0x21222324, 0x31323334, 0x41424344, 0x51525354, 0x61626364),
    so_snapshot=SoSnapshot(0, 3, -1),
    key=b"8 bytes!",
    attempt=7,
    application_state=b"st",
    write_buffer=b"wxy",
    read_buffer=b"r",
)
_REPLY = (
    "00000002 00000003 00000001"  # lengths: application state, write buffer, read buffer
    "01020304 01020305 11121317 0000000500000006 11121314 00000007 3820627974657321"
    "01 02 0007 000005b4 08 09 21222324 31323334 41424344 51525354 61626364"
    "00 00000003 ffffffff"
    "7374 777879 72"
)
GOLDEN: list[tuple[Frame, str]] = [
    (
        StateRequest(OLD, NEW, 0x11121314, 7, TAG),
        f"4d544350 01 01 0001 0000005c {_S1} {_C} {_S2} {_C} 11121314 00000007 {_TAG}",
    ),
    (StateReplyFrame(OLD, TAG, REPLY), f"4d544350 01 01 0002 0000008b {_S1} {_C} {_TAG} {_REPLY}"),
    (StateReject(OLD, 7, TAG, Reason.AHEAD), f"4d544350 01 01 0003 00000034 {_S1} {_C} 00000007 {_TAG} 0005"),
    (Done(OLD, 7, TAG), f"4d544350 01 01 0004 00000032 {_S1} {_C} 00000007 {_TAG}"),
    (DoneAck(OLD6, 7, TAG), f"4d544350 01 01 0005 00000032 {_OLD6} 00000007 {_TAG}"),
    (Query(OLD, 7, TAG), f"4d544350 01 01 0006 00000032 {_S1} {_C} 00000007 {_TAG}"),
    (
        Release(OLD, 7, TAG, b"8 bytes!"),
        f"4d544350 01 01 0007 0000003a {_S1} {_C} 00000007 {_TAG} 3820627974657321",
    ),
]
golden = pytest.mark.parametrize(("frame", "text"), GOLDEN, ids=lambda value: type(value).__name__)

u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
eight = st.binary(min_size=8, max_size=8)
endpoints = st.builds(Endpoint, st.ip_addresses().map(str), u16)
tuples = st.builds(FourTuple, endpoints, endpoints)
tcp_snapshots = st.builds(TcpSnapshot, u8, u8, u16, u32, u8, u8, u32, u32, u32, u32, u32)
so_snapshots = st.builds(SoSnapshot, u8, u32, st.integers(-(2**31), 2**31 - 1))
replies = st.builds(
    StateReply,
    rcv_seq_snapshot=u32,
    last_ack_sent=u32,
    snd_seq_snapshot=u32,
    snd_max_seen=u32,
    snd_bytes_discard=st.integers(0, 2**64 - 1),
    tcp_snapshot=tcp_snapshots,
    so_snapshot=so_snapshots,
    key=eight,
    attempt=u32,
    application_state=st.binary(max_size=50),
    write_buffer=st.binary(max_size=50),
    read_buffer=st.binary(max_size=50),
)
any_frame: st.SearchStrategy[Frame] = st.one_of(
    st.builds(StateRequest, tuples, tuples, u32, u32, eight),
    st.builds(StateReplyFrame, tuples, eight, replies),
    st.builds(StateReject, tuples, u32, eight, st.sampled_from(Reason)),
    *(st.builds(kind, tuples, u32, eight) for kind in (Done, DoneAck, Query)),
    st.builds(Release, tuples, u32, eight, eight),
)


def read(data: bytes) -> list[Frame]:
    return list(FrameReader().feed(data))


def with_body(kind: int, body: bytes) -> bytes:
    return b"MTCP\x01\x01" + struct.pack("!HI", kind, len(body)) + body


@golden
def test_bytes(frame: Frame, text: str) -> None:
    wire = bytes.fromhex(text)
    assert frames.encode(frame) == wire
    assert read(wire) == [frame]


@given(st.lists(any_frame, max_size=4), st.data())
def test_any_cuts_of_the_stream(sent: list[Frame], data: st.DataObject) -> None:
    wire = b"".join(map(frames.encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    reader, got = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        got += list(reader.feed(wire[start:end]))
    assert got == sent


def test_byte_by_byte() -> None:
    """Each frame comes out with its last byte, not later."""
    reader = FrameReader()
    for frame, text in GOLDEN:
        *head, last = bytes.fromhex(text)
        assert not [f for byte in head for f in reader.feed(bytes([byte]))]
        assert list(reader.feed(bytes([last]))) == [frame]


@golden
def test_body_cut_or_too_long(frame: Frame, text: str) -> None:
    """The header tells the length of what came, so nothing more is waited for: the body itself is wrong."""
    wire = bytes.fromhex(text)
    kind, body = wire[7], wire[12:]
    for length in range(len(body)):
        with pytest.raises(RemoteProtocolError, match="early"):
            read(with_body(kind, body[:length]))
    with pytest.raises(RemoteProtocolError, match="1 bytes too many"):
        read(with_body(kind, body + b"\0"))


@golden
def test_wrong_family(frame: Frame, text: str) -> None:
    body = bytes.fromhex(text)[12:]
    for at in range(0, 76 if isinstance(frame, StateRequest) else 38, 19):
        for family in (0, 5, 10):
            with pytest.raises(RemoteProtocolError, match=f"family {family}"):
                read(with_body(frame.type, body[:at] + bytes([family]) + body[at + 1 :]))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("4d544351 01 01 0004 0000002a", "not an M-TCP control connection"),
        ("474554202f2048545450", "not an M-TCP control connection"),  # GET / HTTP
        ("4d544350 02 02 0004 0000002a", "version 2"),
        ("4d544350 01 01 0002 04000001", "67108865 bytes"),
        ("4d544350 01 01 0002 ffffffff", "4294967295 bytes"),
        ("4d544350 01 01 0000 00000000", "unknown type 0"),
        ("4d544350 01 01 0008 00000000", "unknown type 8"),
    ],
)
def test_bad_header(header: str, why: str) -> None:
    """Nothing is waited for, and so nothing collected, once the header is wrong."""
    with pytest.raises(RemoteProtocolError, match=why):
        read(bytes.fromhex(header).ljust(12, b"\0"))


def test_a_later_version_that_is_compatible() -> None:
    frame, text = GOLDEN[3]
    assert read(bytes.fromhex(text.replace("4d544350 01 01", "4d544350 02 01"))) == [frame]


def test_unknown_reason() -> None:
    with pytest.raises(RemoteProtocolError, match="unknown reason 99"):
        read(with_body(3, bytes.fromhex(f"{_S1} {_C} 00000007 {_TAG} 0063")))


def test_lengths_inside_a_reply_that_exceed_it() -> None:
    body = bytearray(bytes.fromhex(f"{_S1} {_C} {_TAG} {_REPLY}"))
    for at in (46, 50, 54):
        wrong = body[:at] + b"\xff\xff\xff\xff" + body[at + 4 :]
        with pytest.raises(RemoteProtocolError, match="early"):
            read(with_body(2, bytes(wrong)))


@given(st.integers(0, 8), st.binary(max_size=150))
def test_garbage_is_the_senders_error_and_nothing_else(kind: int, body: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        read(with_body(kind, body))


@given(st.binary(max_size=40))
def test_garbage_headers(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        read(b"MTCP" + data)


def test_too_large_to_send() -> None:
    with pytest.raises(ValueError, match="at most"):
        frames.encode(
            StateReplyFrame(OLD, TAG, StateReply(**{**REPLY.__dict__, "write_buffer": bytes(frames.MAX_BODY)}))
        )
