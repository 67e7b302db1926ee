"""Ping, to the microsecond and without a program in between: round-trip times from one host to another.

The command prints 200 ms without decimals, and a busy machine is in its figures. Here the kernel says when an answer
arrived, and the other end's kernel gives it.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from typing import Any

from testbed.link_probe import SO_TIMESTAMPNS, arrival_ns, realtime, socket_in

_ECHO, _ANSWER = 8, 0
_HEADER = struct.Struct("!BBHHHQ")  # type, code, sum, identifier, number; CLOCK_REALTIME when it was sent
_IP = 20


def ping(host: Any, address: str, count: int, interval: float, patience: float = 1.0) -> list[float]:
    """Milliseconds that each of `count` pings from the Mininet `host` took, one each `interval` seconds.

    NaN for what was not answered within `patience` seconds after the last.
    """
    times = [math.nan] * count
    identifier = os.getpid() & 0xFFFF
    with socket_in(host.pid, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock, realtime():
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setblocking(False)
        begun = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, begun + number * interval - time.monotonic()))
            sock.sendto(_echo(identifier, number, time.time_ns()), (address, 0))
            _receive(sock, identifier, times)
        deadline = time.monotonic() + patience
        while any(map(math.isnan, times)) and time.monotonic() < deadline:
            time.sleep(0.005)
            _receive(sock, identifier, times)
    return times


def _receive(sock: socket.socket, identifier: int, times: list[float]) -> None:
    """Note the answers that have come."""
    while True:
        try:
            packet, extra, _, _ = sock.recvmsg(2048, 64)
        except BlockingIOError:
            return
        if len(packet) < _IP + _HEADER.size:
            continue
        kind, _, _, of, number, sent = _HEADER.unpack_from(packet, _IP)
        if kind == _ANSWER and of == identifier and number < len(times):
            times[number] = (arrival_ns(extra) - sent) / 1e6


def _echo(identifier: int, number: int, now: int) -> bytes:
    packet = _HEADER.pack(_ECHO, 0, 0, identifier, number, now)
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    return _HEADER.pack(_ECHO, 0, ~(total + (total >> 16)) & 0xFFFF, identifier, number, now)
