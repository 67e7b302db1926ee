"""How the testbed uses aioquic (QUIC and HTTP/3 in Python), at both ends: settings, and its limits.

aioquic has a program's limits where TCP has the kernel's, and a Python program's at that. Who compares with it must
know them; docs/quic.md has the figures, and where they come from.
"""

from __future__ import annotations

import contextlib
import socket

from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import MAX_STREAM_DATA_FRAME_CAPACITY, QuicConnection
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketSpace
from aioquic.quic.stream import QuicStream

DATAGRAM = 1452
"""Bytes of UDP payload: what fits a packet of 1500 bytes in both versions of IP. aioquic does not probe for it, and
would stay with 1200: a fifth more packets for the same bytes, and packets are what its CPU time goes into."""
WINDOW = 8 << 20
"""Bytes that a receiver lets the other end send ahead of the application: five times what a path of 100 Mbit/s with
80 ms and a full queue holds."""
SOCKET_BUFFER = 4 << 20
"""Bytes. The usual 208 KiB hold some 90 packets: 11 ms at 100 Mbit/s, and a process waits longer than that for its CPU
where several share it. What does not fit is lost, and looks like congestion."""
LATE = 0.01
"""Seconds that a sender may be woken late, and make up for."""
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33


class Pacer(QuicPacketPacer):
    """Sends a fourth faster than a window in a round trip, as RFC 9002 section 7.7 recommends, and makes up for LATE.

    aioquic's own sends at just that rate, with bursts of no more than 16 packets: whatever it is woken late is lost,
    and at 100 Mbit/s more than 2 ms are late.
    """

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        super().update_rate(congestion_window * 5 // 4, smoothed_rtt)
        self.bucket_max = max(self.bucket_max, LATE)


class Windowed(QuicConnection):
    """Lets the other end send WINDOW bytes of a stream ahead of the application. aioquic's own lets it send ever more:
    it counts what has arrived, not what has been read."""

    unread = 0
    """Bytes that the application has still to read, of the one stream that it reads from."""

    def room(self, stream: QuicStream) -> int:
        """Bytes by which the limit of `stream` may be raised; 0 while it is not worth a frame."""
        read = stream.receiver.starting_offset() - self.unread
        room = read + WINDOW - stream.max_stream_data_local
        return room if room >= WINDOW // 4 else 0

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        if stream.max_stream_data_local:  # else it is one to send on
            stream.max_stream_data_local += self.room(stream)
        if stream.max_stream_data_local_sent != stream.max_stream_data_local and stream.stream_id is not None:
            frame = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            frame.push_uint_var(stream.stream_id)
            frame.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local


def configuration(*, client: bool) -> QuicConfiguration:
    """HTTP/3 with the testbed's settings; certificates are still to be loaded."""
    return QuicConfiguration(
        alpn_protocols=H3_ALPN,
        congestion_control_algorithm="cubic",
        is_client=client,
        max_data=WINDOW,
        max_datagram_size=DATAGRAM,
        max_stream_data=WINDOW,
    )


def paced(connection: QuicConnection) -> None:
    """Give it our Pacer; before it sends anything."""
    connection._loss._pacer = Pacer(max_datagram_size=DATAGRAM)


def udp_socket(family: socket.AddressFamily) -> socket.socket:
    """Non-blocking, with large buffers; nothing is sent in fragments (RFC 9000 section 14)."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    for forced, usual in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        sock.setsockopt(socket.SOL_SOCKET, usual, SOCKET_BUFFER)
        with contextlib.suppress(PermissionError):  # who may not has as much as the system allows
            sock.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)
    sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock
