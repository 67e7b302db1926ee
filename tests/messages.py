"""Every message of the wire formats: how to make any (hypothesis), and one example of each shape."""

from __future__ import annotations

from hypothesis import strategies as st

from mtcp.address import Endpoint, FourTuple
from mtcp.errors import Reason
from mtcp.snapshot import SoSnapshot, StateReply, TcpSnapshot
from mtcp.wire import frames
from mtcp.wire.frames import Done, DoneAck, Frame, Release, StateReject, StateReplyFrame, StateRequest
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
)

u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
eight = st.binary(min_size=8, max_size=8)
v4 = st.builds(Endpoint, st.ip_addresses(v=4).map(str), u16)
v6 = st.builds(Endpoint, st.ip_addresses(v=6).map(str), u16)
endpoints = v4 | v6
tuples = st.builds(FourTuple, endpoints, endpoints)
_index_of_total = st.tuples(u8, u8).filter(lambda pair: pair[0] < pair[1])
_lists = st.lists(v4, max_size=3) | st.lists(v6, max_size=1)

any_option: st.SearchStrategy[AnyOption] = st.one_of(
    st.builds(Capable, st.none() | eight),
    st.builds(Migrate, endpoints, u32, u32, eight),
    *(st.builds(kind, u32, eight) for kind in (Accept, Ack3, Abort, AbortAck, Query)),
    st.builds(
        lambda version, at, listed, mac: AddServers(version, *at, tuple(listed), mac),
        u16,
        _index_of_total,
        _lists,
        eight,
    ),
    st.builds(AddServersAck, u16, eight),
    st.builds(Reject, u32, st.sampled_from(Reason), eight),
    st.builds(Hint, u32, st.sampled_from(HintReason), st.none() | endpoints, eight),
    st.builds(Refusal, u32, eight, eight),
    st.builds(HintAck, u32, st.sampled_from(HintAnswer), eight),
)

replies = st.builds(
    StateReply,
    rcv_seq_snapshot=u32,
    last_ack_sent=u32,
    snd_seq_snapshot=u32,
    snd_max_seen=u32,
    snd_bytes_discard=st.integers(0, 2**64 - 1),
    tcp_snapshot=st.builds(TcpSnapshot, u8, u8, u16, u32, u8, u8, u32, u32, u32, u32, u32),
    so_snapshot=st.builds(SoSnapshot, u8, u32, st.integers(-(2**31), 2**31 - 1)),
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
    *(st.builds(kind, tuples, u32, eight) for kind in (Done, DoneAck, frames.Query)),
    st.builds(Release, tuples, u32, eight, eight),
)

MAC = bytes.fromhex("a1a2a3a4a5a6a7a8")
CLIENT, S1, S2 = Endpoint("10.0.0.9", 50000), Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 8080)
S6, CLIENT6 = Endpoint("2001:db8::1", 443), Endpoint("2001:db8::9", 65535)
OLD, NEW, OLD6 = FourTuple(S1, CLIENT), FourTuple(S2, CLIENT), FourTuple(S6, CLIENT6)
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
OPTIONS: list[AnyOption] = [
    Capable(),
    Capable(b"8 bytes!"),
    Migrate(S1, 0x11223344, 7, MAC),
    Migrate(S6, 0xFFFFFFFF, 0x00FFFFFF, MAC),
    Accept(7, MAC),
    Ack3(7, MAC),
    AddServers(3, 0, 2, (S1, S2), MAC),
    AddServers(3, 1, 2, (S6,), MAC),
    AddServers(1, 0, 1, (), MAC),
    AddServersAck(3, MAC),
    Reject(7, Reason.BUSY, MAC),
    Abort(7, MAC),
    AbortAck(7, MAC),
    Query(7, MAC),
    Refusal(7, b"8 bytes!", MAC),
    Hint(5, HintReason.OVERLOAD, None, MAC),
    Hint(6, HintReason.DRAIN, S2, MAC),
    Hint(7, HintReason.ATTACK, S6, MAC),
    HintAck(5, HintAnswer.NOT_NOW, MAC),
]
FRAMES: list[Frame] = [
    StateRequest(OLD, NEW, 0x11121314, 7, MAC),
    StateRequest(OLD6, OLD6, 0x11121314, 7, MAC),
    StateReplyFrame(OLD, MAC, REPLY),
    StateReject(OLD, 7, MAC, Reason.AHEAD),
    Done(OLD, 7, MAC),
    DoneAck(OLD6, 7, MAC),
    frames.Query(OLD, 7, MAC),
    Release(OLD, 7, MAC, b"8 bytes!"),
]
