"""What TCP sockets there are, by sock_diag(7): whether one is still there, or all of a port with their tcp_info.

Without a library: pyroute2 decodes all of a host's sockets in milliseconds of Python, during which an agent that shares
its interpreter's lock cannot serve a move (155 ms were seen on a busy machine). `dump` is for programs of their own:
the kernel walks its whole table of connections for it, a millisecond where that has 262,144 buckets.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from mtcp.address import Endpoint, FourTuple, unpack_ip

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
TCPDIAG_GETSOCK = 18
"""The older request. Only this one asks for both address families at once: the table is walked once."""
NLMSG_ERROR = 2
NLM_F_REQUEST = 1
NLMSG_DONE = 3
NLM_F_DUMP = 0x300
TCP_SYN_RECV, TCP_TIME_WAIT, TCP_LISTEN, TCP_NEW_SYN_RECV = 3, 6, 10, 12
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI2s2s16s16sIII")
_OLD_REQUEST = struct.Struct("=BBBB48sII")
_ERROR = struct.Struct("=i")
_SOCKET = struct.Struct("=BBBB2s2s16s16sIQIIIII")
_ATTRIBUTE = struct.Struct("=HH")
_INFO = 2  # INET_DIAG_INFO
_MAPPED = bytes(10) + b"\xff\xff"


class TcpSocket(NamedTuple):
    """A socket as the kernel describes it."""

    connection: FourTuple
    """A listener's remote end has port 0."""
    state: int
    receive_queue: int
    """Bytes that the program has not read; connections that wait to be accepted, at a listener."""
    send_queue: int
    """Bytes that have not been acknowledged; how many connections may wait, at a listener."""
    info: bytes
    """struct tcp_info; empty for a socket that is no full one. See mtcp.linux.tcp_info."""


class SockDiag:
    """Questions to the kernel about the sockets of this network namespace."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG)

    def exists(self, four_tuple: FourTuple) -> bool:
        """Whether there is a TCP socket with these addresses, be it in TIME_WAIT; OSError when the kernel fails."""
        found = self._ask(four_tuple, 0)
        # A listener on the port is what the kernel finds when there is no connection.
        return found is not None and found[1] != TCP_LISTEN

    def find(self, four_tuple: FourTuple) -> TcpSocket | None:
        """The connection with these addresses and its tcp_info, None where there is none; OSError as of `exists`."""
        found = self._ask(four_tuple, 1 << (_INFO - 1))
        return None if found is None or found[1] == TCP_LISTEN else parse(found)

    def _ask(self, four_tuple: FourTuple, extensions: int) -> bytes | None:
        """The kernel's struct inet_diag_msg and attributes."""
        local, remote = four_tuple
        family = socket.AF_INET if len(local.packed) == 4 else socket.AF_INET6
        ports = (local.port.to_bytes(2, "big"), remote.port.to_bytes(2, "big"))
        which = (family, socket.IPPROTO_TCP, extensions, _ALL_STATES, *ports, local.packed, remote.packed)
        request = _REQUEST.pack(*which, 0, _NO_COOKIE, _NO_COOKIE)
        header = _HEADER.pack(_HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0)
        self._sock.send(header + request)
        answer = self._sock.recv(4096)
        if _HEADER.unpack_from(answer)[1] != NLMSG_ERROR:
            return answer[_HEADER.size :]
        number = -_ERROR.unpack_from(answer, _HEADER.size)[0]
        if number == errno.ENOENT:
            return None
        raise OSError(number, f"sock_diag: {os.strerror(number)}")

    def dump(self, port: int | None = None) -> list[TcpSocket]:
        """All listeners and connections, over IPv4 and IPv6, or those with `port` at either end.

        Not those in TIME_WAIT, nor half-open ones of a listener. IPv4-mapped addresses are given as IPv4.
        OSError when the kernel fails.
        """
        states = (1 << TCP_NEW_SYN_RECV) - 1 & ~(1 << TCP_TIME_WAIT)
        return [parse(body) for body in self._dump(states, 1 << (_INFO - 1), port)]

    def listeners(self) -> list[TcpSocket]:
        """All listeners; OSError when the kernel fails. Cheap: the table of connections is not walked."""
        return [parse(body) for body in self._dump(1 << TCP_LISTEN, 0)]

    def half_open(self) -> int:
        """How many connections of listeners are half open; OSError when the kernel fails."""
        return sum(1 for _ in self._dump(1 << TCP_SYN_RECV, 0))

    def _dump(self, states: int, extensions: int, port: int | None = None) -> Iterator[bytes]:
        request = _OLD_REQUEST.pack(0, 0, 0, extensions, bytes(48), states, 0)
        if port is not None:
            code = _either_port(port)
            request += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(code), 1) + code  # INET_DIAG_REQ_BYTECODE
        length = _HEADER.size + len(request)
        self._sock.send(_HEADER.pack(length, TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP, 0, 0) + request)
        while True:
            answer = self._sock.recv(1 << 16)
            for kind, body in messages(answer):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    number = -_ERROR.unpack_from(body)[0]
                    raise OSError(number, f"sock_diag: {os.strerror(number)}")
                yield body

    def close(self) -> None:
        self._sock.close()


def messages(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of the netlink messages that were received together."""
    at = 0
    while at + _HEADER.size <= len(answer):
        length, kind, *_ = _HEADER.unpack_from(answer, at)
        yield kind, answer[at + _HEADER.size : at + length]
        at += max(length + 3 & ~3, _HEADER.size)


def attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of the netlink attributes in `body` from `at` on."""
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        yield kind, body[at + _ATTRIBUTE.size : at + length]
        at += max(length + 3 & ~3, _ATTRIBUTE.size)


def parse(body: bytes) -> TcpSocket:
    """The socket of a struct inet_diag_msg and its attributes."""
    fields = _SOCKET.unpack_from(body)
    family, state, _, _, sport, dport, source, destination, _, _, _, receive, send, *_ = fields
    ends = (
        Endpoint(_ip(family, packed), int.from_bytes(port, "big"))
        for packed, port in ((source, sport), (destination, dport))
    )
    info = next((value for kind, value in attributes(body, _SOCKET.size) if kind == _INFO), b"")
    return TcpSocket(FourTuple(*ends), state, receive, send, info)


def _ip(family: int, packed: bytes) -> str:
    if family == socket.AF_INET:
        return unpack_ip(packed[:4])
    return unpack_ip(packed[12:] if packed.startswith(_MAPPED) else packed)


def _either_port(port: int) -> bytes:
    """The kernel's filter "local port or remote port": (code, length if true, length if false) and operands."""
    jump, local_is, remote_is = 1, 11, 12
    operations = [(local_is, 8, 12), (0, 0, port), (jump, 4, 12), (remote_is, 8, 12), (0, 0, port)]
    return b"".join(struct.pack("=BBH", *operation) for operation in operations)
