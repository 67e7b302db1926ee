"""Frames of our own between the two interfaces of a link: what arrives, when, and what does not.

They need no addresses, no routes and no programs at the ends, and each direction is seen for itself: both ends have one
clock. The kernel says when a frame arrived, so a busy receiver changes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from testbed.errors import TestbedError
from testbed.namespaces import enter_network_of, in_thread

ETHERTYPE = 0x88B5
"""For local experiments (IEEE 802)."""
SMALLEST, LARGEST = 60, 1514
"""Bytes of a frame, without its check sequence."""

_HEADER = struct.Struct("!6s6sHIQ")  # to, from, type, number, CLOCK_REALTIME when it was sent
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
SO_TIMESTAMPNS, _SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 35, 26, 33
_ETH_P_ALL = 3
_BUFFER = 32 << 20
_TIME = struct.Struct("@qq")


class Arrival(NamedTuple):
    """A frame that came. Times in ns, CLOCK_REALTIME."""

    number: int
    sent: int
    arrived: int
    size: int
    """Bytes."""


class Port:
    """One interface of a link, to send frames from and to receive them at; a context manager."""

    def __init__(self, pid: int, interface: str, mac: str) -> None:
        """`pid`: of a process in the interface's network namespace. TestbedError when that cannot be entered."""
        self.name = interface
        self.mac = bytes.fromhex(mac.replace(":", ""))
        try:
            self._socket = socket_in(pid, socket.AF_PACKET, socket.SOCK_RAW, 0)
            _accept_only(self._socket, ETHERTYPE)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            # All types: to a bridge's port frames come before the bridge takes them, to those of one type after.
            self._socket.bind((interface, _ETH_P_ALL))
            self._socket.setblocking(False)
        except OSError as error:
            raise TestbedError(f"{interface} cannot be probed: {error.strerror}") from None

    def send(self, to: Port, number: int, size: int = SMALLEST) -> bool:
        """Send a frame to the other end; whether the interface took it."""
        frame = _HEADER.pack(to.mac, self.mac, ETHERTYPE, number, time.time_ns()).ljust(size, b"\0")
        try:
            return self._socket.send(frame) == size
        except OSError:  # it is full, or down: then nothing arrives, which is what is measured
            return False

    def arrivals(self) -> list[Arrival]:
        """The frames that have come since the last call."""
        come: list[Arrival] = []
        while True:
            try:
                frame, extra, _, _ = self._socket.recvmsg(LARGEST, 64)
            except BlockingIOError:
                return come
            except OSError:  # it went down: what came before may still be there
                continue
            _, _, _, number, sent = _HEADER.unpack_from(frame)
            come.append(Arrival(number, sent, arrival_ns(extra), len(frame)))

    def close(self) -> None:
        """Give it up."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


def ports(link: Any) -> tuple[Port, Port]:
    """Those of a Mininet link."""
    first, second = (Port(end.node.pid, end.name, end.MAC()) for end in (link.intf1, link.intf2))
    return first, second


@contextlib.contextmanager
def realtime() -> Iterator[None]:
    """This thread goes before all others but the emulator, where that is allowed: for those that hardly compute."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def socket_in(pid: int, family: int, kind: int, protocol: int) -> socket.socket:
    """A socket of the network namespace of the process `pid`, opened by a thread that enters it. OSError."""

    def make() -> socket.socket:
        enter_network_of(pid)
        return socket.socket(family, kind, protocol)

    return in_thread(make)


def arrival_ns(extra: Iterable[tuple[int, int, bytes]]) -> int:
    """When the kernel received what came with these ancillary data, with SO_TIMESTAMPNS: CLOCK_REALTIME."""
    seconds, ns = _TIME.unpack(next(data for _, kind, data in extra if kind == SO_TIMESTAMPNS))
    return int(seconds * 10**9 + ns)


def _accept_only(sock: socket.socket, ethertype: int) -> None:
    """Attach a filter (struct sock_fprog) that lets frames of this type pass."""
    code = ((0x28, 0, 0, 12), (0x15, 0, 1, ethertype), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0))
    buffer = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", *each) for each in code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(code), ctypes.addressof(buffer)))
