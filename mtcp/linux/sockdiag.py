"""Whether a TCP socket is still there, by sock_diag(7).

One socket at a time and without a library: pyroute2 decodes all of a host's sockets in milliseconds of Python, during
which an agent that shares its interpreter's lock cannot serve a move (155 ms were seen on a busy machine).
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from mtcp.address import FourTuple

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLMSG_ERROR = 2
NLM_F_REQUEST = 1
TCP_LISTEN = 10
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI2s2s16s16sIII")
_ERROR = struct.Struct("=i")


class SockDiag:
    """Questions to the kernel about the sockets of this network namespace."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG)

    def exists(self, four_tuple: FourTuple) -> bool:
        """Whether there is a TCP socket with these addresses, be it in TIME_WAIT; OSError when the kernel fails."""
        local, remote = four_tuple
        family = socket.AF_INET if len(local.packed) == 4 else socket.AF_INET6
        ports = (local.port.to_bytes(2, "big"), remote.port.to_bytes(2, "big"))
        ends = (local.packed, remote.packed)
        request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES, *ports, *ends, 0, _NO_COOKIE, _NO_COOKIE)
        header = _HEADER.pack(_HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, 0, 0)
        self._sock.send(header + request)
        answer = self._sock.recv(4096)
        if _HEADER.unpack_from(answer)[1] != NLMSG_ERROR:
            # A listener on the port is what the kernel finds when there is no connection.
            return answer[_HEADER.size + 1] != TCP_LISTEN
        number = -_ERROR.unpack_from(answer, _HEADER.size)[0]
        if number == errno.ENOENT:
            return False
        raise OSError(number, f"sock_diag: {os.strerror(number)}")

    def close(self) -> None:
        self._sock.close()
