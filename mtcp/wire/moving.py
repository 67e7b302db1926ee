"""The options of one attempt to move: from MIGRATE to its outcome."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from mtcp import keys
from mtcp.address import Endpoint, FourTuple, unpack_ip
from mtcp.errors import Reason, RemoteProtocolError
from mtcp.wire.option_body import Attempted, Flags, Plain, Subtype, address_flag, unpack


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
        return address_flag(self.old_server.ip)

    def body(self) -> bytes:
        return self.old_server.packed + struct.pack(
            "!HII8s", self.old_server.port, self.rcv_nxt, self.attempt, self.mac
        )

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        layout = struct.Struct("!16sHII8s" if flags & Flags.IPV6 else "!4sHII8s")
        address, port, rcv_nxt, attempt, mac = unpack(layout, body)
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
class Accept(Attempted):
    """SYN-ACK, new server to client: I have the connection; the segment's own numbers say how it stands.

    Nothing but the attempt is signed, so that the client's mapping knows beforehand what MAC to wait for.
    """

    subtype: ClassVar[Subtype] = Subtype.ACCEPT


@dataclass(frozen=True)
class Ack3(Attempted):
    """Client to new server: the move is committed."""

    subtype: ClassVar[Subtype] = Subtype.ACK3


@dataclass(frozen=True)
class Abort(Attempted):
    """Client to old server: this attempt is off, the connection stays with you."""

    subtype: ClassVar[Subtype] = Subtype.ABORT


@dataclass(frozen=True)
class AbortAck(Attempted):
    """Old server to client: ABORT heard."""

    subtype: ClassVar[Subtype] = Subtype.ABORT_ACK


@dataclass(frozen=True)
class Refusal(Plain):
    """Client to any server: by this attempt the connection is not yours, or no longer; let go of it.

    No ABORT, although both end an attempt: a server that is still fenced for an earlier attempt would take it for one.
    If this attempt was given up, `abort` is the MAC of the ABORT that says so, to be passed on to the old server.
    """

    subtype: ClassVar[Subtype] = Subtype.REFUSAL
    attempt: int
    abort: bytes = bytes(keys.MAC_LENGTH)
    mac: bytes = bytes(keys.MAC_LENGTH)

    def body(self) -> bytes:
        return struct.pack("!I8s8s", self.attempt, self.abort, self.mac)

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        attempt, abort, mac = unpack(struct.Struct("!I8s8s"), body)
        return cls(int(attempt), bytes(abort), bytes(mac))

    def signed(self, key: bytes) -> Refusal:
        return replace(self, mac=keys.mac(key, "REFUSAL", struct.pack("!I8s", self.attempt, self.abort)))


@dataclass(frozen=True)
class Query(Attempted):
    """Server to client: is the connection with me, by or in spite of this attempt? ABORT: yes. REFUSAL: no."""

    subtype: ClassVar[Subtype] = Subtype.QUERY


@dataclass(frozen=True)
class Reject(Plain):
    """New server to client: it will not be.

    Whoever refuses may not know the key; `tag`, the MAC of the MIGRATE that is refused, shows that it has seen it.
    """

    subtype: ClassVar[Subtype] = Subtype.REJECT
    attempt: int
    reason: Reason
    tag: bytes

    def body(self) -> bytes:
        return struct.pack("!IH8s", self.attempt, self.reason, self.tag)

    @classmethod
    def parse(cls, flags: Flags, body: bytes) -> Self:
        attempt, reason, tag = unpack(struct.Struct("!IH8s"), body)
        try:
            return cls(int(attempt), Reason(int(reason)), bytes(tag))
        except ValueError as e:
            raise RemoteProtocolError(f"REJECT with unknown reason {reason!r}; dropped") from e
