"""Sends frames fast and at a pace: many by one sendmmsg() on a packet socket.

The frames take the way of all packets of the host (no PACKET_QDISC_BYPASS), so that a capture there shows them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import generators
from testbed.attack.frames import Frames
from testbed.errors import TestbedError

BATCH = 512
"""Frames in one system call, at most; the kernel takes 1024 (UIO_MAXIOV)."""
_ROOM = 8 << 20
_SO_SNDBUFFORCE = 32
_WAIT = 0.001
_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Mmsghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


@dataclass(frozen=True)
class Way:
    """How frames get from this host to a target."""

    interface: str
    source: str
    """This host's address there."""
    mac: str
    next_mac: str
    """Of the target, or of the router before it."""


def way_to(ip: str, timeout: float = 5.0) -> Way:
    """Look the way up, with ARP; TestbedError when there is none."""
    route = _ip(["route", "get", ip], f"there is no route to {ip}")
    interface, source, next_ip = route["dev"], route["prefsrc"], route.get("gateway", ip)
    mac = _ip(["link", "show", "dev", interface], f"there is no {interface}")["address"]
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                probe.sendto(b"", (next_ip, 9))  # it has to be looked for before it is known
            with contextlib.suppress(TestbedError):
                neighbour = _ip(["neighbour", "show", "to", next_ip, "dev", interface], "")
                if "lladdr" in neighbour:
                    return Way(interface, source, mac, neighbour["lladdr"])
            time.sleep(0.01)
    raise TestbedError(f"{next_ip} does not answer ARP on {interface}")


def _ip(command: list[str], fault: str) -> dict[str, Any]:
    run = subprocess.run(["ip", "-j", *command], capture_output=True, text=True)
    rows: list[dict[str, Any]] = json.loads(run.stdout or "[]") if run.returncode == 0 else []
    if not rows:
        raise TestbedError(fault)
    return rows[0]


class Sender:
    """A packet socket, and the frames as the kernel wants them described."""

    def __init__(self, interface: str, frames: Frames) -> None:
        self._frames = frames
        size, length = frames.rows.shape
        base = frames.rows.ctypes.data
        self._parts = (_Iovec * size)(*((base + row * length, length) for row in range(size)))
        self._messages = (_Mmsghdr * size)()
        for part, message in zip(self._parts, self._messages, strict=True):
            message.iov, message.iov_length = ctypes.pointer(part), 1
        self._next = 0
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _ROOM)
        self._socket.bind((interface, 0))

    def send(self, count: int) -> int:
        """Send the next frames, `count` or fewer; how many the interface has taken. Each frame is sent once only."""
        if self._next == len(self._frames.rows):
            self._frames.renew()
            self._next = 0
        first = ctypes.byref(self._messages, self._next * ctypes.sizeof(_Mmsghdr))
        sent: int = _libc.sendmmsg(self._socket.fileno(), first, min(count, len(self._frames.rows) - self._next), 0)
        if sent < 0:
            number = ctypes.get_errno()
            if number in (errno.ENOBUFS, errno.EINTR):  # a full queue: the pace decides when to try again
                return 0
            raise OSError(number, f"sendmmsg: {os.strerror(number)}")
        self._next += sent
        return sent

    def close(self) -> None:
        self._socket.close()


def flood(
    interface: str, frames: Frames, *, rate: float, seconds: float, count: int | None = None, wait: bool = False
) -> dict[str, float | int]:
    """Send frames at this pace until `seconds` are over or `count` are sent; what was really done.

    `wait`: for SIGUSR1; see generators.Until.

    sent, seconds, rate (achieved, a second), dropped (by the interface), late_ms_max (behind the pace), cpu_s (of
    this process). ValueError beyond generators.LIMITS, TestbedError outside a host of the testbed.
    """
    most = int(rate * seconds) if count is None else min(count, int(rate * seconds))
    generators.bounded(rate=rate, seconds=seconds, count=most)
    generators.refuse_outside()
    sent, late, begun_cpu = 0, 0.0, time.process_time()
    with contextlib.closing(Sender(interface, frames)) as out:
        dropped = _dropped(interface)
        until = generators.Until(seconds, wait)
        until.announce()
        while sent < most and not until.over:
            passed = until.passed
            due = min(int(rate * passed) + 1, most) - sent
            if due > 0:
                late = max(late, passed - sent / rate)
                now = out.send(due)
                sent += now
                if now:
                    continue
            time.sleep(until.pause(_WAIT))
        passed = until.passed
    return {
        "sent": sent,
        "seconds": round(passed, 3),
        "asked_rate": rate,
        "rate": round(sent / passed, 1),
        "dropped": _dropped(interface) - dropped,
        "late_ms_max": round(1000 * late, 3),
        "cpu_s": round(time.process_time() - begun_cpu, 3),
    }


def _dropped(interface: str) -> int:
    """Packets that the interface has dropped instead of sending them (/proc/net/dev)."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == interface:
            return int(figures.split()[11])
    return 0
