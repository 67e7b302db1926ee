"""ICMP echo: round-trip times between hosts, by the kernels at both ends (RFC 792, RFC 4443). Needs CAP_NET_RAW."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator

_HEADER = struct.Struct("!BBHHHQ")  # type, code, sum, identifier, number; CLOCK_REALTIME when it was sent
_REQUEST, _REPLY = {socket.AF_INET: 8, socket.AF_INET6: 128}, {socket.AF_INET: 0, socket.AF_INET6: 129}
_PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_SO_TIMESTAMPNS = 35
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1
_MOST = 256
"""Packets that are read at a time."""


class Echo:
    """Sends requests and takes the replies to them."""

    def __init__(self, family: socket.AddressFamily) -> None:
        """OSError when the kernel has no such sockets, or does not let this process have one."""
        self._family = family
        self._identifier = int.from_bytes(os.urandom(2), "big")
        self._sock = socket.socket(family, socket.SOCK_RAW, _PROTOCOL[family])
        self._sock.setblocking(False)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        reply = _REPLY[family]
        if family == socket.AF_INET:
            self._sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << reply) & 0xFFFFFFFF))
        else:
            blocked = [0xFFFFFFFF] * 8
            blocked[reply >> 5] &= ~(1 << (reply & 31))
            self._sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))

    def send(self, ip: str, number: int) -> None:
        """One request; what cannot be sent now is lost, as on the way."""
        with contextlib.suppress(OSError):
            self._sock.sendto(request(self._family, self._identifier, number, time.time_ns()), (ip, 0))

    def receive(self) -> Iterator[tuple[str, int, float]]:
        """(address, number, seconds) of the replies that have come."""
        for _ in range(_MOST):
            try:
                packet, extra, _, peer = self._sock.recvmsg(2048, 64)
            except OSError:
                return
            if self._family == socket.AF_INET:
                packet = packet[(packet[0] & 15) * 4 :] if packet else b""
            if len(packet) < _HEADER.size:
                continue
            kind, _, _, identifier, number, sent = _HEADER.unpack_from(packet)
            arrived = next((_time(data) for _, kind, data in extra if kind == _SO_TIMESTAMPNS), time.time_ns())
            if kind == _REPLY[self._family] and identifier == self._identifier and sent <= arrived:
                yield peer[0], number, (arrived - sent) / 1e9

    def close(self) -> None:
        self._sock.close()


def request(family: socket.AddressFamily, identifier: int, number: int, sent_ns: int) -> bytes:
    """An echo request; the kernel fills in the checksum of ICMPv6."""
    packet = _HEADER.pack(_REQUEST[family], 0, 0, identifier, number, sent_ns)
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return _HEADER.pack(_REQUEST[family], 0, ~total & 0xFFFF, identifier, number, sent_ns)


def _time(data: bytes) -> int:
    seconds, nanoseconds = struct.unpack("=qq", data)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
