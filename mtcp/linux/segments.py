"""Control segments on the wire: raw sending, and receiving by AF_PACKET before the kernel's TCP would see them.

IPv4. The tc programs of both hosts keep control segments from the kernel and let them pass unmapped.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

from mtcp.address import Endpoint, FourTuple, unpack_ip
from mtcp.errors import RemoteProtocolError
from mtcp.linux.tcp_repair import RETURN_0, attach_filter
from mtcp.wire import options
from mtcp.wire.options import AnyOption

ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800
PACKET_IGNORE_OUTGOING = 23
SOL_PACKET = 263
_IP = struct.Struct("!BBHHHBBH4s4s")
_TCP = struct.Struct("!HHIIBBHHH")


class TcpFlags(IntFlag):
    """Flags of the TCP header."""

    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    SYN_ACK = 18


@dataclass(frozen=True)
class Segment:
    """A TCP segment without payload; `four_tuple` as its receiver sees it when received, as its sender when sent."""

    four_tuple: FourTuple
    seq: int
    ack: int
    flags: TcpFlags
    window: int
    """The raw 16-bit field."""
    option: AnyOption | None = None


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def build(segment: Segment) -> bytes:
    """The IPv4 packet; the kernel fills in the IP checksum and identification."""
    local, remote = segment.four_tuple
    option = options.encode(segment.option) if segment.option else b""
    option += b"\x01" * (-len(option) % 4)
    length = _TCP.size + len(option)
    header = _TCP.pack(
        local.port, remote.port, segment.seq, segment.ack, length // 4 << 4, segment.flags, segment.window, 0, 0
    )
    pseudo = local.packed + remote.packed + struct.pack("!HH", socket.IPPROTO_TCP, length)
    checksum = _checksum(pseudo + header + option)
    tcp = header[:16] + struct.pack("!H", checksum) + header[18:] + option
    return _IP.pack(0x45, 0, 20 + length, 0, 0x4000, 64, socket.IPPROTO_TCP, 0, local.packed, remote.packed) + tcp


def parse(packet: bytes) -> Segment:
    """Read an IPv4 packet whose first TCP option is ours; RemoteProtocolError when it is malformed."""
    header_length = (packet[0] & 15) * 4 if packet else 0
    if len(packet) < header_length + _TCP.size:
        raise RemoteProtocolError("control segment cut short; dropped")
    source, destination = packet[12:16], packet[16:20]
    sport, dport, seq, ack, offset, flags, window, _, _ = _TCP.unpack_from(packet, header_length)
    option = options.decode(packet[header_length + _TCP.size : header_length + (offset >> 4) * 4])
    local = Endpoint(unpack_ip(destination), dport)
    remote = Endpoint(unpack_ip(source), sport)
    return Segment(FourTuple(local, remote), seq, ack, TcpFlags(flags & 0x1F), window, option)


# AF_PACKET/SOCK_DGRAM hands over from the IP header on: TCP, not a fragment, and 253/0x4D54 as the first option.
_FILTER = (
    (0x28, 0, 0, 0xFFFFF000),  # A = Ethertype (SKF_AD_PROTOCOL)
    (0x15, 0, 9, ETH_P_IP),
    (0x30, 0, 0, 9),  # A = protocol
    (0x15, 0, 7, socket.IPPROTO_TCP),
    (0x28, 0, 0, 6),  # A = flags and fragment offset
    (0x45, 5, 0, 0x1FFF),
    (0xB1, 0, 0, 0),  # X = length of the IP header
    (0x48, 0, 0, 20),  # A = kind and length of the first option
    (0x54, 0, 0, 0xFF00),
    (0x15, 0, 1, options.KIND << 8),
    (0x05, 0, 0, 1),
    (0x06, 0, 0, 0),
    (0x48, 0, 0, 22),  # A = ExID
    (0x15, 1, 0, options.EXID),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFF),
)


class ControlSegments:
    """Sends and receives control segments in this network namespace."""

    def __init__(self) -> None:
        """PermissionError without CAP_NET_RAW."""
        self._out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._out.setblocking(False)
        # For all protocols, not IP alone: only such a socket sees a packet before tc does.
        self._in = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._in.setblocking(False)
        self._in.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        attach_filter(self._in, RETURN_0)
        # The socket listens from its first moment on: let go of what came before the filter.
        with contextlib.suppress(BlockingIOError):
            while True:
                self._in.recv(1)
        attach_filter(self._in, *_FILTER)

    def fileno(self) -> int:
        """Readable when a segment has arrived."""
        return self._in.fileno()

    def send(self, segment: Segment) -> None:
        """Send now; OSError when there is no route."""
        self._out.sendto(build(segment), (segment.four_tuple.remote.ip, 0))

    def receive(self) -> Iterator[Segment | RemoteProtocolError]:
        """Everything that has arrived; a malformed one comes as the error that says so."""
        while True:
            try:
                packet = self._in.recv(2048)
            except BlockingIOError:
                return
            try:
                yield parse(packet)
            except RemoteProtocolError as error:
                yield error

    def close(self) -> None:
        self._out.close()
        self._in.close()
