"""Scapy layers of the M-TCP option and of the frames between agents; importing this registers them.

Scapy has no layers inside TCP options, so a packet holds ours as ``("Experiment", b"MT...")``, kind 253 (RFC 6994):

    option_of(packet)                                     # MTCPOption / Migrate, or None
    TCP(options=[tcp_option(MTCPOption() / Abort(attempt=3))])

Frames are TLS on the wire; `frames` takes what was decrypted. Where they are in the clear,
``bind_layers(TCP, MTCPFrame, dport=7000)`` and scapy's TCPSession put the stream together.
"""

from __future__ import annotations

from typing import Any

from scapy.fields import (
    BitEnumField,
    BitField,
    ByteEnumField,
    ByteField,
    Field,
    FieldLenField,
    FlagsField,
    IntField,
    LongField,
    PacketField,
    PacketListField,
    ShortEnumField,
    ShortField,
    SignedIntField,
    StrFixedLenField,
    StrLenField,
    XByteField,
    XIntField,
    XShortField,
    XStrField,
    XStrFixedLenField,
)
from scapy.layers.inet import TCP, TCPOptions
from scapy.packet import Packet, bind_layers

from mtcp.address import pack_ip, unpack_ip
from mtcp.errors import Reason
from mtcp.wire import frames as wire_frames
from mtcp.wire import options as wire_options
from mtcp.wire.frames import FrameType
from mtcp.wire.options import HintAnswer, HintReason, Subtype

EXPERIMENT = "Experiment"
"""Name of TCP option 253 in scapy's packets."""
_EXID = wire_options.EXID.to_bytes(2, "big")
_REASONS = {int(r): r.name for r in Reason}


def _mac(name: str = "mac") -> Field[Any, Any]:
    return XStrFixedLenField(name, bytes(8), 8)


# -- the option


class _OptionAddress(Field[str, bytes]):
    """An address of 4 bytes, or of 16 where the option's flags say IPV6; text for people."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "0.0.0.0")

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, str]:
        n = 16 if _is_ipv6(pkt) else 4
        return s[n:], unpack_ip(bytes(s[:n]))

    def addfield(self, pkt: Packet, s: bytes, val: Any) -> bytes:
        return s + pack_ip(val)

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        return str(x)


def _is_ipv6(layer: Packet | None) -> bool:
    while layer is not None and not isinstance(layer, MTCPOption):
        layer = layer.underlayer or layer.parent
    return layer is not None and bool(layer.flags is not None and layer.flags & 1)


class MTCPOption(Packet):
    """The head of every M-TCP option; what follows depends on the subtype. `length` and `flags` come by themselves."""

    name = "M-TCP option"
    fields_desc = [
        ByteField("kind", wire_options.KIND),
        ByteField("length", None),
        XShortField("exid", wire_options.EXID),
        BitEnumField("subtype", Subtype.CAPABLE, 4, {int(s): s.name for s in Subtype}),
        BitField("version", wire_options.VERSION, 4),
        FlagsField("flags", None, 8, ["IPV6"]),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        built = bytearray(pkt)
        if self.length is None:
            built[1] = len(pkt) + len(pay)
        if self.flags is None:
            built[5] = int(any(":" in address for address in _addresses(self.payload)))
        return bytes(built) + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        body = max(0, self.length - 6)
        return s[:body], s[body:]


def _addresses(layer: Packet) -> list[str]:
    servers = [layer, *layer.fields.get("servers", []), *layer.fields.get("preferred", [])]
    return [value for server in servers for name, value in server.fields.items() if name in ("ip", "old_server_ip")]


class Server(Packet):
    """A server inside ADD_SERVERS or HINT."""

    fields_desc = [_OptionAddress("ip"), ShortField("port", 0)]

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        return b"", s


class Capable(Packet):
    name = "CAPABLE"
    fields_desc = [XShortField("reserved", 0), XStrField("key", b"")]


class Migrate(Packet):
    name = "MIGRATE"
    fields_desc = [
        _OptionAddress("old_server_ip"),
        ShortField("old_server_port", 0),
        IntField("rcv_nxt", 0),
        IntField("attempt", 0),
        _mac(),
    ]


class _Attempted(Packet):
    fields_desc = [IntField("attempt", 0), _mac()]


class Accept(_Attempted):
    name = "ACCEPT"


class Ack3(_Attempted):
    name = "ACK3"


class Abort(_Attempted):
    name = "ABORT"


class AbortAck(_Attempted):
    name = "ABORT_ACK"


class Query(_Attempted):
    name = "QUERY"


class Refusal(Packet):
    name = "REFUSAL"
    fields_desc = [IntField("attempt", 0), _mac("abort"), _mac("mac")]


class Reject(Packet):
    name = "REJECT"
    fields_desc = [IntField("attempt", 0), ShortEnumField("reason", Reason.BUSY, _REASONS), _mac("tag")]


class AddServers(Packet):
    name = "ADD_SERVERS"
    fields_desc = [
        _mac(),
        ShortField("version", 0),
        ByteField("index", 0),
        ByteField("total", 1),
        PacketListField("servers", [], Server),
    ]


class AddServersAck(Packet):
    name = "ADD_SERVERS_ACK"
    fields_desc = [ShortField("version", 0), _mac()]


class Hint(Packet):
    """`preferred` has one server or none."""

    name = "HINT"
    fields_desc = [
        _mac(),
        IntField("number", 0),
        ByteEnumField("reason", HintReason.OVERLOAD, {int(r): r.name for r in HintReason}),
        PacketListField("preferred", [], Server, max_count=1),
    ]


class HintAck(Packet):
    name = "HINT_ACK"
    fields_desc = [
        IntField("number", 0),
        ShortEnumField("answer", HintAnswer.WILL_MOVE, {int(a): a.name for a in HintAnswer}),
        _mac(),
    ]


OPTION_BODIES: dict[Subtype, type[Packet]] = {
    Subtype.CAPABLE: Capable,
    Subtype.MIGRATE: Migrate,
    Subtype.ACCEPT: Accept,
    Subtype.ACK3: Ack3,
    Subtype.ADD_SERVERS: AddServers,
    Subtype.ADD_SERVERS_ACK: AddServersAck,
    Subtype.REJECT: Reject,
    Subtype.ABORT: Abort,
    Subtype.ABORT_ACK: AbortAck,
    Subtype.QUERY: Query,
    Subtype.HINT: Hint,
    Subtype.HINT_ACK: HintAck,
    Subtype.REFUSAL: Refusal,
}


def option_of(packet: Packet) -> MTCPOption | None:
    """The M-TCP option of a packet with a TCP header; None where there is none."""
    if TCP in packet:
        for kind, value in packet[TCP].options:
            if kind in (EXPERIMENT, wire_options.KIND) and value[:2] == _EXID and len(value) >= 4:
                return MTCPOption(bytes([wire_options.KIND, 2 + len(value)]) + value)
    return None


def tcp_option(option: MTCPOption) -> tuple[str, bytes]:
    """An element of TCP's `options`."""
    return EXPERIMENT, bytes(option)[2:]


# -- the frames


class _FrameAddress(Field[str, bytes]):
    """An address in a field of 16 bytes, of which IPv4 takes the first 4; `family` of the same layer says which."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "0.0.0.0")

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, str]:
        return s[16:], unpack_ip(bytes(s[: 4 if pkt.family == 4 else 16]))

    def addfield(self, pkt: Packet, s: bytes, val: Any) -> bytes:
        return s + pack_ip(val).ljust(16, b"\0")

    def i2repr(self, pkt: Packet | None, x: Any) -> str:
        return str(x)


class Endpoint(Packet):
    """One end of a connection, in a frame; `family` comes by itself."""

    fields_desc = [ByteField("family", None), _FrameAddress("ip"), ShortField("port", 0)]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        return (pkt if self.family is not None else bytes([6 if ":" in self.ip else 4]) + pkt[1:]) + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        return b"", s


def _four_tuple(name: str) -> tuple[Field[Any, Any], Field[Any, Any]]:
    return PacketField(f"{name}_local", Endpoint(), Endpoint), PacketField(f"{name}_remote", Endpoint(), Endpoint)


class MTCPFrame(Packet):
    """The header of every frame; `length` comes by itself."""

    name = "M-TCP frame"
    fields_desc = [
        StrFixedLenField("magic", wire_frames.MAGIC, 4),
        ByteField("version", wire_frames.VERSION),
        ByteField("compat_version", wire_frames.COMPAT_VERSION),
        ShortEnumField("type", FrameType.STATE_REQUEST, {int(t): t.name for t in FrameType}),
        IntField("length", None),
    ]

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        return (pkt if self.length is not None else pkt[:8] + len(pay).to_bytes(4, "big")) + pay

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes]:
        return s[: self.length], s[self.length :]

    @classmethod
    def tcp_reassemble(cls, data: bytes, _metadata: Any, _session: Any) -> MTCPFrame | None:
        """For scapy's TCPSession: the first frame of `data`, when it is whole."""
        header = wire_frames.HEADER.size
        if len(data) < header or len(data) < header + int.from_bytes(data[8:12], "big"):
            return None
        return cls(data)


class StateRequest(Packet):
    name = "State request"
    fields_desc = [*_four_tuple("old"), *_four_tuple("new"), IntField("rcv_nxt", 0), IntField("attempt", 0), _mac()]


class StateReply(Packet):
    name = "State reply"
    fields_desc = [
        *_four_tuple("old"),
        _mac("tag"),
        FieldLenField("application_state_length", None, length_of="application_state", fmt="I"),
        FieldLenField("write_buffer_length", None, length_of="write_buffer", fmt="I"),
        FieldLenField("read_buffer_length", None, length_of="read_buffer", fmt="I"),
        IntField("rcv_seq_snapshot", 0),
        IntField("last_ack_sent", 0),
        IntField("snd_seq_snapshot", 0),
        LongField("snd_bytes_discard", 0),
        IntField("snd_max_seen", 0),
        IntField("attempt", 0),
        _mac("key"),
        # tcp_snapshot
        ByteField("t_state", 1),
        ByteField("t_state_transitions", 0),
        XShortField("t_flags", 0),
        IntField("t_maxseg", 0),
        ByteField("snd_wscale", 0),
        ByteField("rcv_wscale", 0),
        IntField("timestamp", 0),
        IntField("snd_wnd", 0),
        IntField("max_window", 0),
        IntField("rcv_wnd", 0),
        IntField("rcv_wup", 0),
        # so_snapshot
        XByteField("so_state", 0),
        XIntField("so_options", 0),
        SignedIntField("so_linger", -1),
        StrLenField("application_state", b"", length_from=lambda p: p.application_state_length),
        StrLenField("write_buffer", b"", length_from=lambda p: p.write_buffer_length),
        StrLenField("read_buffer", b"", length_from=lambda p: p.read_buffer_length),
    ]


class StateReject(Packet):
    name = "State reject"
    fields_desc = [
        *_four_tuple("old"),
        IntField("attempt", 0),
        _mac("tag"),
        ShortEnumField("reason", Reason.BUSY, _REASONS),
    ]


class _Outcome(Packet):
    fields_desc = [*_four_tuple("old"), IntField("attempt", 0), _mac("tag")]


class Done(_Outcome):
    name = "done"


class DoneAck(_Outcome):
    name = "done, heard"


class FrameQuery(_Outcome):
    name = "query"


class Release(Packet):
    name = "release"
    fields_desc = [*_four_tuple("old"), IntField("attempt", 0), _mac("tag"), _mac("proof")]


FRAME_BODIES: dict[FrameType, type[Packet]] = {
    FrameType.STATE_REQUEST: StateRequest,
    FrameType.STATE_REPLY: StateReply,
    FrameType.STATE_REJECT: StateReject,
    FrameType.DONE: Done,
    FrameType.DONE_ACK: DoneAck,
    FrameType.QUERY: FrameQuery,
    FrameType.RELEASE: Release,
}


def frames(data: bytes) -> list[MTCPFrame]:
    """The whole frames at the start of a stream; what is cut off at its end is left out."""
    header, found = wire_frames.HEADER.size, []
    while len(data) >= header and len(data) >= (end := header + int.from_bytes(data[8:header], "big")):
        found.append(MTCPFrame(data[:end]))
        data = data[end:]
    return found


TCPOptions[0][wire_options.KIND] = (EXPERIMENT, None)
TCPOptions[1][EXPERIMENT] = wire_options.KIND
for _subtype, _body in OPTION_BODIES.items():
    bind_layers(MTCPOption, _body, subtype=_subtype)
for _type, _body in FRAME_BODIES.items():
    bind_layers(MTCPFrame, _body, type=_type)
