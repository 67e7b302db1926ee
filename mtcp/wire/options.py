"""The M-TCP option: experimental TCP option 253 (RFC 4727) with ExID 0x4D54, "MT" (RFC 6994).

    0               1               2               3
    +---------------+---------------+---------------+---------------+
    |   kind 253    |    length     |          ExID 0x4D54          |
    +---------------+---------------+-------+-------+---------------+
    |subtype|version|     flags     |  body of the subtype ...      |
    +-------+-------+---------------+-------------------------------+

CAPABLE rides on the kernel's own SYN and SYN-ACK. Every other subtype is a control segment: a TCP segment of
the connection's 4-tuple, made by an agent, in which this option comes first and which no kernel's TCP sees.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import Any, ClassVar, Self

from mtcp import keys
from mtcp.address import Endpoint, FourTuple, unpack_ip
from mtcp.errors import Reason, RemoteProtocolError

KIND = 253
EXID = 0x4D54
VERSION = 1
MAX_LENGTH = 40
_HEAD = struct.Struct("!BBHBB")


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


class Flags(IntFlag):
    """Bits of the flags byte."""

    IPV6 = 1
    """Addresses in the body have 16 bytes, not 4."""


_NO_FLAGS = Flags(0)


class _Plain:
    """No flags."""

    @property
    def flags(self) -> Flags:
        return _NO_FLAGS


def _unpack(layout: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) != layout.size:
        raise RemoteProtocolError(f"M-TCP option body has {len(body)} bytes, expected {layout.size}; dropped")
    return layout.unpack(body)


def _address_flag(ip: str) -> Flags:
    return Flags.IPV6 if ":" in ip else _NO_FLAGS


@dataclass(frozen=True)
class Capable(_Plain):
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
class Migrate:
    """SYN, client to new server: take over the connection that I have with `old_server`.

    `rcv_nxt` is the next byte that the client expects, as far as its mapping has seen (it may lag). The MAC is
    the old server's to check: the new one does not know the key.
    """

    subtype: ClassVar[Subtype] = Subtype.MIGRATE
    old_server: Endpoint
    rcv_nxt: int
    attempt: int
    mac: bytes = bytes(keys.MAC_LENGTH)

    @property
    def flags(self) -> Flags:
        return _address_flag(self.old_server.ip)

    def body(self) -> bytes:
        return self.old_server.packed + struct.pack(
            "!HII8s", self.old_server.port, self.rcv_nxt, self.attempt, self.mac
        )

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        layout = struct.Struct("!16sHII8s" if flags & Flags.IPV6 else "!4sHII8s")
        address, port, rcv_nxt, attempt, mac = _unpack(layout, body)
        return cls(Endpoint(unpack_ip(address), int(port)), int(rcv_nxt), int(attempt), bytes(mac))

    def signed(self, key: bytes, client: Endpoint, new_server: Endpoint) -> Migrate:
        """With the MAC over old 4-tuple, new server, rcv_nxt and attempt."""
        return replace(
            self, mac=migrate_mac(key, FourTuple(self.old_server, client), new_server, self.rcv_nxt, self.attempt)
        )


def migrate_mac(key: bytes, old: FourTuple, new_server: Endpoint, rcv_nxt: int, attempt: int) -> bytes:
    """The MAC of MIGRATE and of the State request made from it; `old` as the old server sees it."""
    addresses = (old.local, old.remote, new_server)
    packed = [endpoint.packed + endpoint.port.to_bytes(2, "big") for endpoint in addresses]
    return keys.mac(key, "MIGRATE", *packed, struct.pack("!II", rcv_nxt, attempt))


@dataclass(frozen=True)
class Accept(_Plain):
    """SYN-ACK, new server to client: I have the connection; `rcv_nxt` is the next byte expected from the client."""

    subtype: ClassVar[Subtype] = Subtype.ACCEPT
    rcv_nxt: int
    attempt: int
    mac: bytes = bytes(keys.MAC_LENGTH)

    def body(self) -> bytes:
        return struct.pack("!II8s", self.rcv_nxt, self.attempt, self.mac)

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        rcv_nxt, attempt, mac = _unpack(struct.Struct("!II8s"), body)
        return cls(int(rcv_nxt), int(attempt), bytes(mac))

    def signed(self, key: bytes) -> Accept:
        return replace(self, mac=keys.mac(key, "ACCEPT", struct.pack("!II", self.rcv_nxt, self.attempt)))


@dataclass(frozen=True)
class _Attempted(_Plain):
    """A body of an attempt number and its MAC."""

    attempt: int
    mac: bytes = bytes(keys.MAC_LENGTH)

    def body(self) -> bytes:
        return struct.pack("!I8s", self.attempt, self.mac)

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        attempt, mac = _unpack(struct.Struct("!I8s"), body)
        return cls(int(attempt), bytes(mac))

    def signed(self, key: bytes) -> Self:
        return replace(self, mac=keys.mac(key, type(self).__name__.upper(), struct.pack("!I", self.attempt)))


@dataclass(frozen=True)
class Ack3(_Attempted):
    """Client to new server: the move is committed."""

    subtype: ClassVar[Subtype] = Subtype.ACK3


@dataclass(frozen=True)
class Abort(_Attempted):
    """Client to old server: this attempt is off, the connection stays with you."""

    subtype: ClassVar[Subtype] = Subtype.ABORT


@dataclass(frozen=True)
class AbortAck(_Attempted):
    """Old server to client: ABORT heard."""

    subtype: ClassVar[Subtype] = Subtype.ABORT_ACK


@dataclass(frozen=True)
class Reject(_Plain):
    """New server to client: it will not be. Unsigned, for whoever refuses may not know the key: see `Migrate`."""

    subtype: ClassVar[Subtype] = Subtype.REJECT
    attempt: int
    reason: Reason

    def body(self) -> bytes:
        return struct.pack("!IH", self.attempt, self.reason)

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        attempt, reason = _unpack(struct.Struct("!IH"), body)
        try:
            return cls(int(attempt), Reason(int(reason)))
        except ValueError as e:
            raise RemoteProtocolError(f"REJECT with unknown reason {reason!r}; dropped") from e


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
        return _address_flag(self.servers[0].ip) if self.servers else _NO_FLAGS

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
class AddServersAck(_Plain):
    """Client to server: I have all of version `version` of the list."""

    subtype: ClassVar[Subtype] = Subtype.ADD_SERVERS_ACK
    version: int
    mac: bytes = bytes(keys.MAC_LENGTH)

    def body(self) -> bytes:
        return struct.pack("!H8s", self.version, self.mac)

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        version, mac = _unpack(struct.Struct("!H8s"), body)
        return cls(int(version), bytes(mac))

    def signed(self, key: bytes) -> AddServersAck:
        return replace(self, mac=keys.mac(key, "ADD_SERVERS_ACK", struct.pack("!H", self.version)))


AnyOption = Capable | Migrate | Accept | Ack3 | AddServers | AddServersAck | Reject | Abort | AbortAck
SignedOption = Accept | Ack3 | AddServers | AddServersAck | Abort | AbortAck
_PARSERS: dict[Subtype, Callable[[Flags, bytes], AnyOption]] = {
    c.subtype: c.parse for c in (Capable, Migrate, Accept, Ack3, AddServers, AddServersAck, Reject, Abort, AbortAck)
}


def is_authentic(option: SignedOption, key: bytes) -> bool:
    """Whether the option carries the MAC that `key` gives it."""
    return keys.matches(option.signed(key).mac, option.mac)


def encode(option: AnyOption) -> bytes:
    """The option's bytes, without padding."""
    body = option.body()
    length = _HEAD.size + len(body)
    if length > MAX_LENGTH:
        raise ValueError(f"{option.subtype.name} needs {length} bytes, TCP has room for {MAX_LENGTH}")
    return _HEAD.pack(KIND, length, EXID, option.subtype << 4 | VERSION, option.flags) + body


def decode(data: bytes) -> AnyOption:
    """Read one option from the start of `data`, which may be longer.

    Raises RemoteProtocolError when it is not ours, malformed, or of a version or subtype that we do not know.
    """
    if len(data) < _HEAD.size:
        raise RemoteProtocolError("M-TCP option cut short; dropped")
    kind, length, exid, what, flags = _HEAD.unpack_from(data)
    if kind != KIND or exid != EXID or not _HEAD.size <= length <= min(len(data), MAX_LENGTH):
        raise RemoteProtocolError("not an M-TCP option, or its length is wrong; dropped")
    if what & 15 != VERSION:
        raise RemoteProtocolError(f"M-TCP option of version {what & 15}, this is version {VERSION}; dropped")
    try:
        parse = _PARSERS[Subtype(what >> 4)]
    except ValueError as e:
        raise RemoteProtocolError(f"M-TCP option of unknown subtype {what >> 4}; dropped") from e
    return parse(Flags(flags & 1), data[_HEAD.size : length])


def find(tcp_options: bytes) -> AnyOption | None:
    """Our option among all the options of a TCP header; None when it is absent or not understood."""
    at = 0
    while at < len(tcp_options):
        kind = tcp_options[at]
        if kind == 0:
            return None
        length = 1 if kind == 1 else tcp_options[at + 1] if at + 1 < len(tcp_options) else 0
        if length < 1 or (kind != 1 and length < 2):
            return None
        if kind == KIND:
            try:
                return decode(tcp_options[at : at + length])
            except RemoteProtocolError:
                pass
        at += length
    return None
