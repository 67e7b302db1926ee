"""Control segments on the wire: raw sending, and receiving by AF_PACKET before the kernel's TCP would see them.

IPv4 and IPv6. The tc programs of both hosts keep control segments from the kernel and let them pass unmapped.
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
from mtcp.linux.admission import Admission
from mtcp.linux.tcp_repair import RETURN_0, SO_RCVBUFFORCE, attach_filter
from mtcp.wire import options
from mtcp.wire.options import AnyOption, Reject

ETH_P_ALL = 0x0003
PACKET_IGNORE_OUTGOING = 23
SOL_PACKET = 263
BUFFER = 1 << 24
"""Bytes that wait to be received, a kilobyte or so for each segment: room for the bursts of mtcp.linux.admission."""
BATCH = 64
"""Segments that are received without a look at anything else: some milliseconds."""
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
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
    """The IP packet; the kernel fills in IPv4's checksum and identification."""
    local, remote = segment.four_tuple
    option = options.encode(segment.option) if segment.option else b""
    option += b"\x01" * (-len(option) % 4)
    length = _TCP.size + len(option)
    header = _TCP.pack(
        local.port, remote.port, segment.seq, segment.ack, length // 4 << 4, segment.flags, segment.window, 0, 0
    )
    ends = local.packed, remote.packed
    pseudo = b"".join(ends) + struct.pack("!HH", socket.IPPROTO_TCP, length)  # the same sum in both families
    checksum = _checksum(pseudo + header + option)
    tcp = header[:16] + struct.pack("!H", checksum) + header[18:] + option
    if len(local.packed) == 4:
        return _IPV4.pack(0x45, 0, 20 + length, 0, 0x4000, 64, socket.IPPROTO_TCP, 0, *ends) + tcp
    return _IPV6.pack(6 << 28, length, socket.IPPROTO_TCP, 64, *ends) + tcp


def parse(packet: bytes) -> Segment:
    """Read an IP packet whose first TCP option is ours; RemoteProtocolError when it is malformed."""
    version = packet[0] >> 4 if packet else 0
    header_length = _IPV6.size if version == 6 else (packet[0] & 15) * 4 if packet else 0
    if len(packet) < header_length + _TCP.size:
        raise RemoteProtocolError("control segment cut short; dropped")
    source, destination = (packet[8:24], packet[24:40]) if version == 6 else (packet[12:16], packet[16:20])
    sport, dport, seq, ack, offset, flags, window, _, _ = _TCP.unpack_from(packet, header_length)
    option = options.decode(packet[header_length + _TCP.size : header_length + (offset >> 4) * 4])
    local = Endpoint(unpack_ip(destination), dport)
    remote = Endpoint(unpack_ip(source), sport)
    return Segment(FourTuple(local, remote), seq, ack, TcpFlags(flags & 0x1F), window, option)


def _raw_socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    sock.setblocking(False)
    return sock


def _raw_sockets() -> dict[int, socket.socket]:
    """To send by, by the number of bytes of an address."""
    made = {4: _raw_socket(socket.AF_INET)}
    with contextlib.suppress(OSError):  # a kernel without IPv6
        made[16] = _raw_socket(socket.AF_INET6)
    return made


class ControlSegments:
    """Sends and receives control segments in this network namespace."""

    def __init__(self) -> None:
        """PermissionError without CAP_NET_RAW and CAP_BPF."""
        self._admission = Admission()
        self._out = _raw_sockets()
        # A REJECT goes to whoever asks, also to addresses that nobody has: what waits for those, seconds long, is
        # counted against its socket, and must not keep all others waiting.
        self._rejects = _raw_sockets()
        # For all protocols, not IP alone: only such a socket sees a packet before tc does.
        self._in = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._in.setblocking(False)
        self._in.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self._in.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        attach_filter(self._in, RETURN_0)
        # The socket listens from its first moment on: let go of what came before the filter.
        with contextlib.suppress(BlockingIOError):
            while True:
                self._in.recv(1)
        self._admission.attach(self._in)

    def counters(self) -> dict[str, int]:
        """How many were let through to here, and how many were dropped because they were too many."""
        return self._admission.counters()

    def fileno(self) -> int:
        """Readable when a segment has arrived."""
        return self._in.fileno()

    def send(self, segment: Segment) -> None:
        """Send now; OSError when there is no route. A REJECT is dropped while too many of them wait."""
        remote = segment.four_tuple.remote
        if not isinstance(segment.option, Reject):
            self._out[len(remote.packed)].sendto(build(segment), (remote.ip, 0))
            return
        with contextlib.suppress(BlockingIOError):
            self._rejects[len(remote.packed)].sendto(build(segment), (remote.ip, 0))

    def receive(self) -> Iterator[Segment | RemoteProtocolError]:
        """What has arrived, up to a bound, so that a flood leaves time for all else; the socket stays readable.

        A malformed one comes as the error that says so.
        """
        for _ in range(BATCH):
            try:
                packet = self._in.recv(2048)
            except BlockingIOError:
                return
            try:
                yield parse(packet)
            except RemoteProtocolError as error:
                yield error

    def close(self) -> None:
        for sock in (*self._out.values(), *self._rejects.values(), self._in):
            sock.close()
        self._admission.close()
