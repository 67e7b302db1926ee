"""A link with somebody in the middle: every frame passes a callback, which may keep, repeat, hold or forward it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from mtcp.wire import options
from mtcp.wire.options import Capable
from testbed.processes import checked
from tests.root.faults_paths import DATA, Passing

ETH_P_ALL, SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE = 3, 263, 15, 23, 33
_VNET, _ETHERNET = 10, 14
_LARGEST = 1 << 17
_BUFFER = 16 << 20
_PORTS = struct.Struct("!HH")


class Wire:
    """Forwards all frames between two interfaces of this network namespace, in a thread of its own.

    Frames keep their virtio header (PACKET_VNET_HDR): super-packets stay whole, and unfinished checksums unfinished.
    """

    def __init__(self, client_end: str, other_end: str, meet: Callable[[Passing], None]) -> None:
        """`meet` gets every TCP segment, in the wire's thread."""
        self._meet = meet
        self._client_end, self._other_end = _open(client_end), _open(other_end)
        self._stop = os.eventfd(0)
        self.cut = False
        """Whether nothing comes through."""
        self.lost = 0
        """Frames for which the interface had no room."""
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        towards = {self._client_end: self._other_end, self._other_end: self._client_end}
        watched: list[Any] = [self._stop, *towards]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self._stop in ready:
                return
            for source in ready:
                for _ in range(64):  # both directions in turn
                    try:
                        frame = source.recv(_LARGEST)
                    except BlockingIOError:
                        break
                    self._pass(frame, partial(self._send, towards[source], frame), source is self._client_end)

    def _pass(self, frame: bytes, forward: Callable[[], None], up: bool) -> None:
        at = _VNET + _ETHERNET
        if frame[at - 2 : at] != b"\x08\x00" or frame[at + 9] != socket.IPPROTO_TCP:
            forward()
            return
        tcp = at + (frame[at] & 15) * 4
        sport, dport = _PORTS.unpack_from(frame, tcp)
        kind, option = DATA, None
        header = (frame[tcp + 12] >> 4) * 4
        if header > 20:
            option = options.find(frame[tcp + 20 : tcp + header])
        if option is not None and not isinstance(option, Capable):
            kind = option.subtype.name
        source, to = socket.inet_ntoa(frame[at + 12 : at + 16]), socket.inet_ntoa(frame[at + 16 : at + 20])
        self._meet(Passing(kind, sport if up else dport, source, to, forward))

    def _send(self, to: socket.socket, frame: bytes) -> None:
        if self.cut:
            return
        try:
            to.send(frame)
        except OSError as error:
            if error.errno not in (errno.ENOBUFS, errno.EAGAIN, errno.ENETDOWN, errno.EBADF):
                raise
            self.lost += 1

    def close(self) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)
        self._client_end.close()
        self._other_end.close()


def _open(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setblocking(False)
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER)
    sock.bind((interface, ETH_P_ALL))
    return sock


@contextlib.contextmanager
def wired(switch: Any, port: str, meet: Callable[[Passing], None]) -> Iterator[Wire]:
    """A Wire between the interface `port` of a testbed.nodes.BridgeSwitch and its bridge."""
    inner, outer = f"{port}-w", f"{port}-b"
    checked(switch, "ip", "link", "add", inner, "type", "veth", "peer", "name", outer)
    checked(switch, "ip", "link", "set", port, "nomaster")
    checked(switch, "ip", "link", "set", outer, "master", switch.name, "up")
    checked(switch, "ip", "link", "set", inner, "up")
    wire = Wire(port, inner, meet)
    try:
        yield wire
    finally:
        wire.close()
        checked(switch, "ip", "link", "delete", inner)
        checked(switch, "ip", "link", "set", port, "master", switch.name)
