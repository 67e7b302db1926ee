"""Addresses of TCP endpoints and connections."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple


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
        return ipaddress.ip_address(self.ip).packed

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
