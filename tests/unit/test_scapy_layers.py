"""Scapy's layers and mtcp.wire read and write the same bytes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.packet import Packet, Raw

from mtcp.address import Endpoint, FourTuple
from mtcp.dissect import scapy_layers
from mtcp.dissect.scapy_layers import FRAME_BODIES, OPTION_BODIES, MTCPFrame, MTCPOption, option_of, tcp_option
from mtcp.linux.segments import Segment, TcpFlags, build, parse
from mtcp.snapshot import SoSnapshot, StateReply, TcpSnapshot
from mtcp.wire import frames, options
from mtcp.wire.frames import Frame, FrameReader, FrameType
from mtcp.wire.options import AnyOption, Subtype
from tests.messages import CLIENT, FRAMES, OPTIONS, S1, any_frame, any_option

every_option = pytest.mark.parametrize("option", OPTIONS, ids=lambda o: type(o).__name__)
every_frame = pytest.mark.parametrize("frame", FRAMES, ids=lambda f: type(f).__name__)


def said(message: Any) -> dict[str, Any]:
    """What a message says, by the names of scapy's fields."""
    found: dict[str, Any] = {}
    for field in fields(message):
        name, value = field.name, getattr(message, field.name)
        match value:
            case Endpoint() if name == "old_server":
                found |= {"old_server_ip": value.ip, "old_server_port": value.port}
            case FourTuple():
                found |= {f"{name}_local": value.local, f"{name}_remote": value.remote}
            case StateReply() | TcpSnapshot() | SoSnapshot():
                found |= said(value)
            case _ if name in ("servers", "preferred"):
                found[name] = [value] if isinstance(value, Endpoint) else list(value or ())
            case None:
                found[name] = b""
            case _:
                found[name] = value
    return found


def shown(layer: Packet, names: Any) -> dict[str, Any]:
    """What scapy shows of these fields."""
    return {name: _plain(getattr(layer, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return Endpoint(value.ip, value.port) if isinstance(value, Packet) else value


def made(kind: type[Packet], message: Any) -> Packet:
    """The layer that says what `message` says."""
    inner = scapy_layers.Server if isinstance(message, options.AddServers | options.Hint) else scapy_layers.Endpoint
    values = {}
    for name, value in said(message).items():
        if isinstance(value, list):
            values[name] = [inner(ip=v.ip, port=v.port) for v in value]
        else:
            values[name] = inner(ip=value.ip, port=value.port) if isinstance(value, Endpoint) else value
    return kind(**values)


def test_complete() -> None:
    assert set(OPTION_BODIES) == set(Subtype)
    assert set(FRAME_BODIES) == set(FrameType)


@given(any_option)
def test_option_read(option: AnyOption) -> None:
    wire = options.encode(option)
    layer = MTCPOption(wire)
    body = layer[OPTION_BODIES[option.subtype]]
    assert shown(body, said(option)) == said(option)
    assert bool(layer.flags & 1) == bool(option.flags)
    assert (layer.length, layer.version, Raw in layer) == (len(wire), options.VERSION, False)
    layer.clear_cache()
    assert bytes(layer) == wire


@given(any_option)
def test_option_written(option: AnyOption) -> None:
    layer = MTCPOption() / made(OPTION_BODIES[option.subtype], option)
    assert options.decode(bytes(layer)) == option
    assert bytes(layer) == options.encode(option)


@given(any_option, st.sampled_from([[], [("NOP", None)], [("MSS", 1460), ("WScale", 7)]]))
def test_in_a_tcp_header(option: AnyOption, others: list[Any]) -> None:
    layer = MTCPOption() / made(OPTION_BODIES[option.subtype], option)
    room = 40 - len(bytes(TCP(options=others))) + 20
    if len(bytes(layer)) <= room:
        packet = IP(bytes(IP() / TCP(options=[*others, tcp_option(layer)])))
        found = option_of(packet)
        assert found is not None and bytes(found) == bytes(layer)
        assert options.find(bytes(packet[TCP])[20:]) == option


@every_option
def test_control_segments(option: AnyOption) -> None:
    """What an agent sends, scapy reads; what scapy sends, an agent reads."""
    sent = Segment(FourTuple(S1, CLIENT), 5, 6, TcpFlags.SYN_ACK, 7, option)
    packet = IP(build(sent))
    found = option_of(packet)
    assert found is not None and found.getlayer(1).name == option.subtype.name
    assert (packet[TCP].seq, packet[TCP].ack, packet[TCP].flags, packet[TCP].window) == (5, 6, "SA", 7)
    tcp = TCP(sport=S1.port, dport=CLIENT.port, seq=5, ack=6, flags="SA", window=7, options=[tcp_option(found)])
    received = parse(bytes(IP(src=S1.ip, dst=CLIENT.ip) / tcp))
    assert received == Segment(FourTuple(CLIENT, S1), 5, 6, TcpFlags.SYN_ACK, 7, option)


def test_no_option_of_ours() -> None:
    assert option_of(IP() / TCP(options=[("MSS", 1460)])) is None
    assert option_of(IP(bytes(IP() / TCP(options=[(253, b"\xf9\x89cookie")])))) is None
    assert option_of(IP()) is None


@given(any_frame)
def test_frame_read(frame: Frame) -> None:
    wire = frames.encode(frame)
    layer = MTCPFrame(wire)
    body = layer[FRAME_BODIES[frame.type]]
    assert shown(body, said(frame)) == said(frame)
    assert (layer.length, Raw in layer) == (len(wire) - 12, False)
    layer.clear_cache()
    body.clear_cache()
    assert bytes(layer) == wire


@given(any_frame)
def test_frame_written(frame: Frame) -> None:
    layer = MTCPFrame() / made(FRAME_BODIES[frame.type], frame)
    assert list(FrameReader().feed(bytes(layer))) == [frame]
    assert bytes(layer) == frames.encode(frame)


@given(st.lists(any_frame, max_size=4), st.binary(max_size=11))
def test_stream_of_frames(sent: list[Frame], rest: bytes) -> None:
    wire = b"".join(map(frames.encode, sent))
    assert [bytes(f) for f in scapy_layers.frames(wire + rest)] == [frames.encode(f) for f in sent]


@every_frame
def test_reassembly(frame: Frame) -> None:
    wire = frames.encode(frame)
    assert MTCPFrame.tcp_reassemble(wire[:-1], None, None) is None
    found = MTCPFrame.tcp_reassemble(wire + wire, None, None)
    assert found is not None and found.type == frame.type and found.lastlayer().load == wire


@given(st.binary(max_size=80))
def test_garbage(data: bytes) -> None:
    option_of(IP(bytes(IP() / TCP(options=[(253, b"MT" + data[:36])]))))
    scapy_layers.frames(b"MTCP\x01\x01\x00\x02\x00\x00\x00\x20" + data)


def test_for_people() -> None:
    text = MTCPOption(options.encode(OPTIONS[2])).show(dump=True)
    assert "MIGRATE" in text and "10.0.0.1" in text and "attempt   = 7" in text
