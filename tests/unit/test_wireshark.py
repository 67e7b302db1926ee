"""What Wireshark shows with our dissector is what mtcp.wire, and scapy's layers, say. Needs tshark (make setup)."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from mtcp import pki
from mtcp.address import Endpoint, FourTuple
from mtcp.dissect.scapy_layers import MTCPFrame, MTCPOption, tcp_option
from mtcp.errors import Reason
from mtcp.snapshot import SoSnapshot, StateReply, TcpSnapshot
from mtcp.wire import frames, options
from mtcp.wire.frames import Frame
from mtcp.wire.options import AddServers, AddServersAck, AnyOption, Hint, HintAck, HintAnswer, HintReason, Reject
from tests.messages import FRAMES, MAC, OPTIONS, S1, any_frame, any_option
from tests.wireshark import rows

Said = dict[str, list[Any]]
HEAD = ["mtcp.subtype", "mtcp.type"]
EACH_REASON: list[AnyOption] = [
    *(Reject(1, reason, MAC) for reason in Reason),
    *(Hint(1, reason, None, MAC) for reason in HintReason),
    *(HintAck(1, answer, MAC) for answer in HintAnswer),
]


def said(message: Any) -> Said:
    """What a message says, by the dissector's names."""
    found: Said = {}
    for field in fields(message):
        name, value = field.name, getattr(message, field.name)
        match value:
            case FourTuple():
                found |= _endpoint(f"{name}_local", value.local) | _endpoint(f"{name}_remote", value.remote)
            case Endpoint():
                found |= _endpoint(name, value)
            case StateReply() | TcpSnapshot() | SoSnapshot():
                found |= said(value)
            case tuple():
                for server in value:
                    for key, values in _endpoint("server", server).items():
                        found.setdefault(key, []).extend(values)
            case None | b"":
                pass
            case _ if isinstance(message, Hint) and name == "reason":
                found["hint_reason"] = [int(value)]
            case _ if isinstance(message, AddServers | AddServersAck) and name == "version":
                found["list_version"] = [value]
            case _:
                found[name] = [value]
    return found


def _endpoint(name: str, endpoint: Endpoint) -> Said:
    key = f"{name}_ip6" if ":" in endpoint.ip else f"{name}_ip"
    return {key: [ipaddress.ip_address(endpoint.ip)], f"{name}_port": [endpoint.port]}


def _read(text: str, like: Any) -> Any:
    if isinstance(like, bytes):
        return bytes.fromhex(text.replace(":", ""))
    return (
        ipaddress.ip_address(text) if isinstance(like, ipaddress.IPv4Address | ipaddress.IPv6Address) else int(text, 0)
    )


def check(messages: Sequence[Any], pcap: Path, *preferences: str) -> None:
    """tshark shows these messages, in this order, one packet each, and nothing else."""
    wanted = [said(message) for message in messages]
    names = sorted({name for one in wanted for name in one})
    seen = rows(pcap, [*HEAD, "mtcp.malformed", *(f"mtcp.{name}" for name in names)], *preferences)
    assert len(seen) == len(wanted)
    for message, want, row in zip(messages, wanted, seen, strict=True):
        assert "mtcp.malformed" not in row, f"teach mtcp.lua {message}"
        kind = message.type if "mtcp.type" in row else message.subtype
        assert (row.pop("mtcp.type", None) or row.pop("mtcp.subtype")) == [str(int(kind))]
        got = {name[5:]: [_read(text, want[name[5:]][0]) for text in texts] for name, texts in row.items()}
        assert got == want, message


def write_options(pcap: Path, messages: Sequence[AnyOption]) -> None:
    """One segment each, by scapy."""
    carried = [tcp_option(MTCPOption(options.encode(message))) for message in messages]
    ends = Ether() / IP(src="10.0.0.1", dst="10.0.0.9")
    wrpcap(str(pcap), [ends / TCP(sport=80, dport=50000, seq=5, flags="A", options=[one]) for one in carried])


def write_stream(pcap: Path, pieces: Sequence[bytes], port: int = 7000) -> None:
    """A connection in which the server sends these pieces, a segment each."""
    ends, seq, packets = Ether() / IP(src="10.1.0.1", dst="10.1.0.2"), 1, []
    for piece in pieces:
        packets.append(ends / TCP(sport=port, dport=50000, seq=seq, ack=1, flags="PA") / piece)
        seq += len(piece)
    wrpcap(str(pcap), packets)


def test_every_option(tmp_path: Path) -> None:
    messages = [*OPTIONS, *EACH_REASON]
    write_options(tmp_path / "x.pcap", messages)
    check(messages, tmp_path / "x.pcap")


@pytest.mark.parametrize("port", [7000, 7009], ids=["known port", "any port"])
def test_every_frame(tmp_path: Path, port: int) -> None:
    write_stream(tmp_path / "x.pcap", [bytes(MTCPFrame(frames.encode(frame))) for frame in FRAMES], port)
    check(FRAMES, tmp_path / "x.pcap")


@settings(max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.lists(any_option, min_size=50, max_size=80), st.lists(any_frame, min_size=50, max_size=80))
def test_any_messages(tmp_path_factory: pytest.TempPathFactory, some: list[AnyOption], more: list[Frame]) -> None:
    """A thousand or so, of which scapy's layers are made anew."""
    directory = tmp_path_factory.mktemp("any")
    write_options(directory / "options.pcap", some)
    check(some, directory / "options.pcap")
    write_stream(directory / "frames.pcap", [frames.encode(frame) for frame in more])
    check(more, directory / "frames.pcap")


@pytest.mark.parametrize("step", [1, 50, 100, 4000])
def test_frames_in_pieces(tmp_path: Path, step: int) -> None:
    """Cut anywhere, or several in a segment."""
    stream = b"".join(map(frames.encode, FRAMES))
    write_stream(tmp_path / "x.pcap", [stream[at : at + step] for at in range(0, len(stream), step)])
    seen = rows(tmp_path / "x.pcap", ["mtcp.type", "mtcp.attempt"])
    assert [int(kind) for row in seen for kind in row["mtcp.type"]] == [frame.type for frame in FRAMES]
    assert {attempt for row in seen for attempt in row["mtcp.attempt"]} == {"7"}


def test_inside_tls(tmp_path: Path) -> None:
    """As agents talk, with the session's keys."""
    pki.initialise(tmp_path / "x.d", ["s1", "s2"])
    client, server = pki.client_context(tmp_path / "x.d", "s1"), pki.server_context(tmp_path / "x.d", "s2")
    client.keylog_filename = str(tmp_path / "keys")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    one, other = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
    packets, seqs = [], {True: 1, False: 1}

    def pump(bio: ssl.MemoryBIO, upwards: bool) -> bytes:
        data, ends = (
            bio.read(),
            ("10.1.0.1", "10.1.0.2", 50000, 7000) if upwards else ("10.1.0.2", "10.1.0.1", 7000, 50000),
        )
        tcp = TCP(sport=ends[2], dport=ends[3], seq=seqs[upwards], ack=seqs[not upwards], flags="PA")
        if data:
            packets.append(Ether() / IP(src=ends[0], dst=ends[1]) / tcp / data)
        seqs[upwards] += len(data)
        return data

    def both() -> None:
        for bio, upwards in ((to_server, True), (to_client, False)):
            bio.write(pump(bio, upwards))

    for _ in range(3):
        for side in (one, other):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            both()
    for frame in FRAMES:
        one.write(frames.encode(frame))
        pump(to_server, True)
    wrpcap(str(tmp_path / "x.pcap"), packets)
    assert not rows(tmp_path / "x.pcap", ["mtcp.type"])
    check(FRAMES, tmp_path / "x.pcap", "-o", f"tls.keylog_file:{tmp_path / 'keys'}")


def test_for_people(tmp_path: Path) -> None:
    """The info column of every message in one line."""
    write_options(tmp_path / "x.pcap", OPTIONS)
    write_stream(tmp_path / "y.pcap", [frames.encode(frame) for frame in FRAMES])
    lines = [row["_ws.col.Info"] for pcap in ("x.pcap", "y.pcap") for row in rows(tmp_path / pcap, ["_ws.col.Info"])]
    text = "\n".join(",".join(line) for line in lines)
    for line in (
        "80 → 50000 MIGRATE attempt 7 from 10.0.0.1:80, rcv_nxt=287454020",
        "MIGRATE attempt 16777215 from [2001:db8::1]:443, rcv_nxt=4294967295",
        "REJECT attempt 7: BUSY",
        "ADD_SERVERS version 3 (1 of 2): 10.0.0.1:80 10.0.0.2:8080",
        "HINT 6: DRAIN, to 10.0.0.2:8080",
        "HINT_ACK 5: NOT_NOW",
        "STATE_REPLY attempt 7 of 10.0.0.1:80 - 10.0.0.9:50000: state 2, to send 3, to read 1 bytes",
        "STATE_REJECT attempt 7 of 10.0.0.1:80 - 10.0.0.9:50000: AHEAD",
    ):
        assert line in text
    assert "malformed" not in text


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        ("fd084d54 1200 0000", "subtype 1 of version 2"),
        ("fd084d54 f100 0000", "subtype 15 of version 1"),
        ("fd054d54 11", "cut short"),
        ("fd064d54 4100", "attempt needs 4 bytes, 0 are left"),
        ("fd134d54 4100 00000007 a1a2a3a4a5a6a7a8 00", "1 bytes too many"),
        ("fd144d54 7100 00000007 0063 a1a2a3a4a5a6a7a8", "unknown number 99"),
        ("fd124d54 5100 a1a2a3a4a5a6a7a8 0001 01 01", "segment 1 of 1"),
        ("fd154d54 5100 a1a2a3a4a5a6a7a8 0001 00 01 0a0000", "needs 4 bytes"),
    ],
)
def test_malformed(tmp_path: Path, wire: str, why: str) -> None:
    data = bytes.fromhex(wire)
    tcp = TCP(sport=S1.port, dport=50000, flags="A", options=[(253, data[2:])])
    wrpcap(str(tmp_path / "x.pcap"), [Ether() / IP() / tcp])
    [row] = rows(tmp_path / "x.pcap", ["mtcp.malformed", "_ws.col.Info", "_ws.expert.message"])
    assert why in ",".join(row["_ws.col.Info"]) and why in ",".join(row["_ws.expert.message"])


def test_other_experiments_are_not_ours(tmp_path: Path) -> None:
    tcp = TCP(flags="S", options=[(253, b"\xf9\x89cookie"), (253, b""), (253, b"M")])
    wrpcap(str(tmp_path / "x.pcap"), [Ether() / IP() / tcp])
    write_stream(tmp_path / "y.pcap", [b"HTTP/1.1 200 OK\r\n\r\n", b"M", b"TCP"])
    assert not rows(tmp_path / "x.pcap", ["mtcp.subtype"])
    assert not rows(tmp_path / "y.pcap", ["mtcp.type"])


def test_frames_that_are_no_frames(tmp_path: Path) -> None:
    header = frames.HEADER.pack
    for data in (header(b"MTCP", 1, 1, 99, 0), header(b"MTCP", 9, 9, 1, 0), header(b"MTCP", 1, 1, 2, 0xFFFFFFFF)):
        write_stream(tmp_path / "x.pcap", [data])
        [row] = rows(tmp_path / "x.pcap", ["_ws.col.Info"])
        assert "malformed" in row["_ws.col.Info"][0]
