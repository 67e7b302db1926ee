"""By which interface a host reaches an address, by rtnetlink(7): one question and one answer, in each move."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from mtcp.address import Endpoint

_NETLINK_ROUTE = 0
_RTM_GETROUTE, _NLMSG_ERROR, _NLM_F_REQUEST = 26, 2, 1
_RTA_DST, _RTA_SRC, _RTA_OIF = 1, 2, 4
_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=i")


class Routes:
    """Questions about the routes of this network namespace."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_ROUTE)

    def interface_to(self, remote: Endpoint, local: Endpoint) -> int:
        """Index of the interface by which packets from `local` to `remote` leave; OSError when there is no route."""
        family = socket.AF_INET if len(remote.packed) == 4 else socket.AF_INET6
        bits = 8 * len(remote.packed)
        body = _ROUTE.pack(family, bits, bits, 0, 0, 0, 0, 0, 0)
        for kind, value in ((_RTA_DST, remote.packed), (_RTA_SRC, local.packed)):
            body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
        self._sock.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 0, 0) + body)
        answer = self._sock.recv(4096)
        if _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR:
            number = -_NUMBER.unpack_from(answer, _HEADER.size)[0]
            raise OSError(number, os.strerror(number))
        interfaces = [value for kind, value in _attributes(answer, _HEADER.size + _ROUTE.size) if kind == _RTA_OIF]
        if not interfaces:  # such as a blackhole
            raise OSError("the route leads nowhere")
        index: int = _NUMBER.unpack(interfaces[0])[0]
        return index

    def close(self) -> None:
        self._sock.close()


def _attributes(message: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind, message[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
