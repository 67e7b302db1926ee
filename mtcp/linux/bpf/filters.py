"""Programs on the interfaces of kernels before 6.6, which have no TCX: as filters of a clsact discipline (tc-bpf(8)).

The same programs with the same verdicts: TCX_NEXT is TC_ACT_UNSPEC, which lets the next filter decide. What differs:
they are not bound to a descriptor, but stay until they are removed or replaced, or the interface goes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from mtcp.linux.bpf.loader import AttachType

_NEW_QDISC, _NEW_FILTER, _DELETE_FILTER, _ERROR = 36, 44, 45, 2
_REQUEST, _ACK, _REPLACE, _CREATE = 1, 4, 0x100, 0x400
_CLSACT, _HANDLE = 0xFFFFFFF1, 0xFFFF0000
_PARENTS = {AttachType.TCX_INGRESS: 0xFFFFFFF2, AttachType.TCX_EGRESS: 0xFFFFFFF3}
_KIND, _OPTIONS, _BPF_FD, _BPF_NAME, _BPF_FLAGS = 1, 2, 6, 7, 8
_DIRECT_ACTION = 1
_FIRST = 0x4D54
"""Preference of our first filter: those of others, made without one, are at 49152 and come later."""
_ETH_P_ALL = socket.htons(3)
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_TCMSG = struct.Struct("=B3xiIII")


class Filters:
    """Those of one agent, in the network namespace that this was made in."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._attached: set[tuple[int, AttachType, int]] = set()

    def attach(self, interface: int, kind: AttachType, position: int, program: int, name: str) -> None:
        """Let the program see packets of the interface, after those of lower positions; replace what is there.

        `name`: what tc shows. OSError when the kernel refuses.
        """
        self._ask(_NEW_QDISC, _CREATE, _TCMSG.pack(0, interface, _HANDLE, _CLSACT, 0) + _attribute(_KIND, b"clsact\0"))
        numbers = {_BPF_FD: program, _BPF_FLAGS: _DIRECT_ACTION}
        options = b"".join(_attribute(number_of, struct.pack("=I", number)) for number_of, number in numbers.items())
        options += _attribute(_BPF_NAME, f"mtcp_{name}\0".encode())
        body = _filter(interface, kind, position) + _attribute(_OPTIONS, options)
        self._ask(_NEW_FILTER, _CREATE | _REPLACE, body)
        self._attached.add((interface, kind, position))

    def remove(self) -> None:
        """Remove what was attached, where it still is."""
        while self._attached:
            with contextlib.suppress(OSError):  # the interface is gone
                self._ask(_DELETE_FILTER, 0, _filter(*self._attached.pop()))

    def close(self) -> None:
        """The filters stay."""
        self._sock.close()

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._sock.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _ACK | flags, 0, 0) + body)
        answer = self._sock.recv(8192)
        number = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if _HEADER.unpack_from(answer)[1] == _ERROR and number:
            raise OSError(number, os.strerror(number))


def _filter(interface: int, kind: AttachType, position: int) -> bytes:
    info = _FIRST + position << 16 | _ETH_P_ALL
    return _TCMSG.pack(0, interface, 1, _PARENTS[kind], info) + _attribute(_KIND, b"bpf\0")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
