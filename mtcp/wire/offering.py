"""The options by which servers and clients say what they can and where a connection may, or had better, go."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import ClassVar, Self

from mtcp import keys
from mtcp.address import Endpoint, unpack_ip
from mtcp.errors import RemoteProtocolError
from mtcp.wire.option_body import NO_FLAGS, Flags, Plain, Subtype, address_flag, unpack


@dataclass(frozen=True)
class Capable(Plain):
    """On a SYN: "I can"; on the SYN-ACK: "and so can I, and this is the connection's key"."""

    subtype: ClassVar[Subtype] = Subtype.CAPABLE
    key: bytes | None = None

    def body(self) -> bytes:
        return bytes(2) + (self.key or b"")

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        if len(body) not in (2, 2 + keys.KEY_LENGTH):
            raise RemoteProtocolError(f"CAPABLE with a body of {len(body)} bytes; dropped")
        return cls(body[2:] or None)


@dataclass(frozen=True)
class AddServers:
    """Server to client: segment `index` of `total` of version `version` of the pool's list of other servers.

    One segment carries servers of one address family: three of IPv4 or one of IPv6 fit.
    """

    subtype: ClassVar[Subtype] = Subtype.ADD_SERVERS
    version: int
    index: int
    total: int
    servers: tuple[Endpoint, ...]
    mac: bytes = bytes(keys.MAC_LENGTH)

    @property
    def flags(self) -> Flags:
        return address_flag(self.servers[0].ip) if self.servers else NO_FLAGS

    def _signed_part(self) -> bytes:
        listed = b"".join(s.packed + s.port.to_bytes(2, "big") for s in self.servers)
        return struct.pack("!HBB", self.version, self.index, self.total) + listed

    def body(self) -> bytes:
        return self.mac + self._signed_part()

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        step = 18 if flags & Flags.IPV6 else 6
        if len(body) < 12 or (len(body) - 12) % step:
            raise RemoteProtocolError(f"ADD_SERVERS with a body of {len(body)} bytes; dropped")
        mac, (version, index, total) = body[:8], struct.unpack_from("!HBB", body, 8)
        if not index < total:
            raise RemoteProtocolError(f"ADD_SERVERS segment {index} of {total}; dropped")
        servers = tuple(
            Endpoint(unpack_ip(bytes(body[i : i + step - 2])), int.from_bytes(body[i + step - 2 : i + step], "big"))
            for i in range(12, len(body), step)
        )
        return cls(version, index, total, servers, mac)

    def signed(self, key: bytes) -> AddServers:
        return replace(self, mac=keys.mac(key, "ADD_SERVERS", self._signed_part()))

    @classmethod
    def split(cls, version: int, servers: list[Endpoint]) -> list[AddServers]:
        """The segments (unsigned) that tell the whole list; an empty list is one segment without servers."""
        chunks: list[tuple[Endpoint, ...]] = []
        for v6, fit in ((False, 3), (True, 1)):
            family = [s for s in servers if (":" in s.ip) == v6]
            chunks += [tuple(family[i : i + fit]) for i in range(0, len(family), fit)]
        chunks = chunks or [()]
        return [cls(version, i, len(chunks), chunk) for i, chunk in enumerate(chunks)]


@dataclass(frozen=True)
class AddServersAck(Plain):
    """Client to server: I have all of version `version` of the list."""

    subtype: ClassVar[Subtype] = Subtype.ADD_SERVERS_ACK
    version: int
    mac: bytes = bytes(keys.MAC_LENGTH)

    def body(self) -> bytes:
        return struct.pack("!H8s", self.version, self.mac)

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        version, mac = unpack(struct.Struct("!H8s"), body)
        return cls(int(version), bytes(mac))

    def signed(self, key: bytes) -> AddServersAck:
        return replace(self, mac=keys.mac(key, "ADD_SERVERS_ACK", struct.pack("!H", self.version)))


class HintReason(IntEnum):
    """Why a server would rather be without a connection."""

    OVERLOAD = 1
    CONGESTION = 2
    ATTACK = 3
    DRAIN = 4


class HintAnswer(IntEnum):
    """What a client makes of a hint."""

    WILL_MOVE = 0
    DECLINED = 1
    """Its policy does not follow hints of this kind."""
    NOWHERE = 2
    """It knows no other server."""
    NOT_NOW = 3
    """A move is under way, or the last one's end not yet confirmed."""


@dataclass(frozen=True)
class Hint:
    """Server to client: this connection had better move, for `reason`, to `preferred` if one is named.

    `number` grows with each hint of a server; the client takes none twice.
    """

    subtype: ClassVar[Subtype] = Subtype.HINT
    number: int
    reason: HintReason
    preferred: Endpoint | None = None
    mac: bytes = bytes(keys.MAC_LENGTH)

    @property
    def flags(self) -> Flags:
        return address_flag(self.preferred.ip) if self.preferred else NO_FLAGS

    def _signed_part(self) -> bytes:
        named = self.preferred.packed + self.preferred.port.to_bytes(2, "big") if self.preferred else b""
        return struct.pack("!IB", self.number, self.reason) + named

    def body(self) -> bytes:
        return self.mac + self._signed_part()

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        named = 18 if flags & Flags.IPV6 else 6
        if len(body) not in (13, 13 + named):
            raise RemoteProtocolError(f"HINT with a body of {len(body)} bytes; dropped")
        number, reason = struct.unpack_from("!IB", body, 8)
        address = body[13:]
        preferred = Endpoint(unpack_ip(address[:-2]), int.from_bytes(address[-2:], "big")) if address else None
        try:
            return cls(number, HintReason(reason), preferred, body[:8])
        except ValueError as e:
            raise RemoteProtocolError(f"HINT with unknown reason {reason}; dropped") from e

    def signed(self, key: bytes) -> Hint:
        return replace(self, mac=keys.mac(key, "HINT", self._signed_part()))


@dataclass(frozen=True)
class HintAck(Plain):
    """Client to server: hint `number` heard, and this is what I do."""

    subtype: ClassVar[Subtype] = Subtype.HINT_ACK
    number: int
    answer: HintAnswer
    mac: bytes = bytes(keys.MAC_LENGTH)

    def body(self) -> bytes:
        return struct.pack("!IH8s", self.number, self.answer, self.mac)

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        number, answer, mac = unpack(struct.Struct("!IH8s"), body)
        try:
            return cls(int(number), HintAnswer(int(answer)), bytes(mac))
        except ValueError as e:
            raise RemoteProtocolError(f"HINT_ACK with unknown answer {answer!r}; dropped") from e

    def signed(self, key: bytes) -> HintAck:
        return replace(self, mac=keys.mac(key, "HINT_ACK", struct.pack("!IH", self.number, self.answer)))
