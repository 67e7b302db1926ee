"""What all M-TCP options share: the head of the format, subtypes, flags, and how a body is read."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import Any, Self

from mtcp import keys
from mtcp.errors import RemoteProtocolError


class Subtype(IntEnum):
    """What the option says."""

    CAPABLE = 1
    MIGRATE = 2
    ACCEPT = 3
    ACK3 = 4
    ADD_SERVERS = 5
    ADD_SERVERS_ACK = 6
    REJECT = 7
    ABORT = 8
    ABORT_ACK = 9
    QUERY = 10
    HINT = 11
    HINT_ACK = 12
    REFUSAL = 13


class Flags(IntFlag):
    """Bits of the flags byte."""

    IPV6 = 1
    """Addresses in the body have 16 bytes, not 4."""


NO_FLAGS = Flags(0)


class Plain:
    """No flags."""

    @property
    def flags(self) -> Flags:
        return NO_FLAGS


@dataclass(frozen=True)
class Attempted(Plain):
    """A body of an attempt number and its MAC; the class's name, in capitals, is the MAC's label."""

    attempt: int
    mac: bytes = bytes(keys.MAC_LENGTH)

    def body(self) -> bytes:
        return struct.pack("!I8s", self.attempt, self.mac)

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        attempt, mac = unpack(struct.Struct("!I8s"), body)
        return cls(int(attempt), bytes(mac))

    def signed(self, key: bytes) -> Self:
        return replace(self, mac=keys.mac(key, type(self).__name__.upper(), struct.pack("!I", self.attempt)))


def unpack(layout: struct.Struct, body: bytes) -> tuple[Any, ...]:
    """RemoteProtocolError unless `body` is exactly as long as `layout`."""
    if len(body) != layout.size:
        raise RemoteProtocolError(f"M-TCP option body has {len(body)} bytes, expected {layout.size}; dropped")
    return layout.unpack(body)


def address_flag(ip: str) -> Flags:
    """The flags of a body whose addresses are of the family of `ip`."""
    return Flags.IPV6 if ":" in ip else NO_FLAGS
