"""Addresses of TCP endpoints and connections."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import NamedTuple


@lru_cache(4096)
def pack_ip(text: str) -> bytes:
    """An IP address in network order, 4 or 16 bytes. Kept: this is on the path of every move."""
    return ipaddress.ip_address(text).packed


@lru_cache(4096)
def unpack_ip(packed: bytes) -> str:
    """The text of 4 or 16 bytes; ValueError for any other number."""
    return str(ipaddress.ip_address(packed))


class Endpoint(NamedTuple):
    """One end of a TCP connection: an IP address in text form and a port."""

    ip: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read ``10.0.0.1:80`` or ``[2001:db8::1]:80``; ValueError says what is wrong with `text`."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is not an ADDRESS:PORT")
        return cls(str(ipaddress.ip_address(host.strip("[]"))), int(port))

    @property
    def packed(self) -> bytes:
        """The IP address in network order, 4 or 16 bytes."""
        return pack_ip(self.ip)

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


class FourTuple(NamedTuple):
    """A connection as one host sees it."""

    local: Endpoint
    remote: Endpoint

    @property
    def reversed(self) -> FourTuple:
        """The same connection as the other host sees it."""
        return FourTuple(self.remote, self.local)

    def __str__(self) -> str:
        return f"{self.local} -> {self.remote}"
