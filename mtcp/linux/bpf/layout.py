"""What the BPF programs and Python share: struct layouts, keys, state words. Declared here and nowhere else.

Numbers are in the machine's byte order unless called raw: raw fields hold the bytes of the packet.

**An address** has 16 bytes, as in an IPv6 packet; IPv4 is the mapped ::ffff:a.b.c.d (RFC 4291), whatever the family of
the socket. So there is one kind of key, of entry and of program for both.

**The state word.** Everything that decides where a segment goes is in one u32, changed by compare-and-exchange only:

    bits 0-3  EntryState      bit 5  which of the two server slots is current      bits 8-31  attempt

A program loads it once and acts on that value. The move commits when the ingress program exchanges
(attempt, slot, MIGRATING) for (attempt, other slot, TRACKED); abort exchanges the same word for (attempt, slot,
TRACKED): one of the two fails. As slot and state change together no CPU can see the new state with the old
server. `begin` writes the slot that is not current *before* it exchanges TRACKED for MIGRATING, so whoever sees
MIGRATING sees the new server and the MAC of its ACCEPT, too (the exchange is a full barrier). The attempt number keeps
a slow CPU from committing an attempt that was aborted and begun anew with another server. A CPU which is so slow that
it uses a TRACKED word of before a commit when the next `begin` has already overwritten that slot does not recognise the
sender and drops its segment; before it sends to a server it looks at the word again, and drops the segment if it is
another. Both heal as a loss does.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

from mtcp.address import Endpoint, FourTuple, unpack_ip
from mtcp.linux.bpf.asm import Field

LAYOUT_VERSION = 8  # part of the names of maps; raise it whenever anything below changes

# -- TCP option (PROTOCOL.md, set-up) --

OPTION_KIND = 253  # experimental, RFC 6994
OPTION_EXID = 0x4D54
OPTION_VERSION = 1
SUBTYPE_CAPABLE = 1
SUBTYPE_MIGRATE = 2
SUBTYPE_ACCEPT = 3
CAPABLE_BYTE = SUBTYPE_CAPABLE << 4 | OPTION_VERSION  # fifth byte of the option
SYN_OPTION_LENGTH = 8
SYNACK_OPTION_LENGTH = 16
KEY_LENGTH = 8


MAPPED_PREFIX = bytes(10) + b"\xff\xff"  # of an IPv4 address in 16 bytes


class EntryState(IntEnum):
    """Who may speak. Whether the connection was moved is not a state: then current is not the original server."""

    FREE = 0
    TRACKED = 1  # all to and from the current server
    MIGRATING = 2  # outgoing segments are held, the current server is not heard, the next one's ACCEPT commits


STATE_MASK = 0x0F
SLOT_BIT = 0x20  # equals SERVER.SIZE, so that `word & SLOT_BIT` is the current slot's offset
ATTEMPT_SHIFT = 8
COMMIT_XOR = SLOT_BIT | EntryState.MIGRATING ^ EntryState.TRACKED
ABORT_XOR = EntryState.MIGRATING ^ EntryState.TRACKED


class EntryFlag(IntFlag):
    CLOSED = 1  # the client's socket is in state CLOSE (or TIME_WAIT, which has no socket)
    STALE = 2  # a new SYN went out on this 4-tuple: both directions pass untouched


class SERVER:
    """A server slot in an entry."""

    SIZE = 32
    ADDRESS = Field(0, 16)
    PORT = Field(16, 2)  # raw
    SEQ_MAX = Field(20, 4)  # end of what this server has been seen to send: acknowledgements never pass it
    INTERFACE = Field(24, 4)  # index: by which it is reached; 0: by the socket's


class ENTRY:
    """A connection of this client."""

    SIZE = 256
    WORD = Field(0, 4)
    FLAGS = Field(4, 4)  # EntryFlag
    KEY = Field(8, 8)  # as in the SYN-ACK
    COOKIE = Field(16, 8)  # of the socket; tells connections apart that use the same entry one after another
    SERVERS = Field(24, 64)  # two SERVER slots: current and next or previous
    SOCKET = Field(88, 36)  # TUPLE: the connection as the socket knows it, with the original server
    RCV_NXT = Field(124, 4)  # latest acknowledgement that went out, as the server saw it
    SND_NXT = Field(128, 4)  # end of what went out
    WINDOW = Field(132, 4)  # unscaled, of the segment that RCV_NXT is from
    TCP_FLAGS = Field(136, 4)  # all that went out, or-ed
    LAST_SEEN = Field(144, 8)  # CLOCK_MONOTONIC, ns: last segment in either direction
    COMMITTED_AT = Field(152, 8)  # CLOCK_MONOTONIC, ns; 0: never
    ACCEPT_MAC = Field(160, 8)  # raw: of the ACCEPT that may commit this attempt
    EGRESS = Field(168, 8)  # counters of segments (GSO packets count once)
    INGRESS = Field(176, 8)
    HELD = Field(184, 8)
    DEAF_DROPPED = Field(192, 8)
    OTHER_DROPPED = Field(200, 8)
    RST_DROPPED = Field(208, 8)
    CLAMPED = Field(216, 8)
    BAD_MAC = Field(224, 8)
    HAS_GAP = Field(232, 4)  # whether the segment that went out last acknowledged data out of order (SACK)
    HIDES_GAP = Field(236, 4)  # whether such acknowledgements are about a server's data that has been left
    GAP_END = Field(240, 4)  # up to where, then
    RCV_START = Field(244, 4)  # the first sequence number that the socket was to receive


COUNTERS: dict[str, Field] = {
    "egress": ENTRY.EGRESS,  # segments that the socket sent
    "ingress": ENTRY.INGRESS,  # segments that came for it
    "held": ENTRY.HELD,  # dropped while migrating, or as the move commits; the kernel sends them again
    "deaf_dropped": ENTRY.DEAF_DROPPED,  # from the current server while migrating
    "other_dropped": ENTRY.OTHER_DROPPED,  # from a server that is not current, and SYNs of the next one
    "rst_dropped": ENTRY.RST_DROPPED,  # RST of a server that is not current
    "clamped": ENTRY.CLAMPED,  # acknowledgements lowered to what the server has sent
    "bad_mac": ENTRY.BAD_MAC,  # ACCEPTs of the next server, for the right attempt, that were forged
}


class EVENT:
    """A record of the ring buffer."""

    SIZE = 16
    KIND = Field(0, 4)
    INDEX = Field(4, 4)
    TIME = Field(8, 8)


class EventKind(IntEnum):
    ESTABLISHED = 1
    COMMITTED = 2
    CLOSED = 3


class ACCEPTED:
    """What the server's host keeps of a handshake: value of map `accepted`. `handshakes` holds KEY only."""

    SIZE = 16
    KEY = Field(0, 8)
    RCV_NXT = Field(8, 4)
    SND_NXT = Field(12, 4)


class COMMAND:
    """Context of the control program: what the agent asks for, and what it expects to find."""

    SIZE = 56
    INDEX = Field(0, 4)
    EXPECTED = Field(4, 4)  # the state word the agent saw
    REPLACEMENT = Field(8, 4)  # the state word it wants
    NEXT_PORT = Field(12, 2)  # raw; 0: leave the slot that is not current
    COOKIE = Field(16, 8)
    NEXT_ADDRESS = Field(24, 16)  # what goes into that slot
    ACCEPT_MAC = Field(40, 8)  # raw: goes with it
    NEXT_INTERFACE = Field(48, 4)  # this, too


class TUPLE:
    """Key of all connection maps, in the order of a packet's bytes: source (or local) first."""

    SIZE = 36
    SOURCE_IP = Field(0, 16)
    DESTINATION_IP = Field(16, 16)
    SOURCE_PORT = Field(32, 2)
    DESTINATION_PORT = Field(34, 2)


class Maps(NamedTuple):
    """File descriptors of all maps."""

    egress: int  # hash: client's 4-tuple as the socket sends -> index
    ingress: int  # hash: 4-tuple as segments come in, one for each server that was ever next -> index
    entries: int  # array of ENTRY, memory-mapped by the agent
    free: int  # queue of unused indices; first in, first out, so that an index rests before it is used again
    events: int  # ring buffer of EVENT
    listeners: int  # hash: local port (u32) -> u32 1
    keys: int  # queue of random keys
    handshakes: int  # LRU hash: server's 4-tuple -> key, from SYN-ACK to ACK
    accepted: int  # LRU hash: server's 4-tuple -> ACCEPTED
    departed: int  # LRU hash: 4-tuple as segments come in, of connections that have left this server -> u32 1


_NUMBERS = {1: struct.Struct("=B"), 2: struct.Struct("=H"), 4: struct.Struct("=I"), 8: struct.Struct("=Q")}


def read(memory: memoryview | bytes, field: Field, base: int = 0) -> int:
    """The field's number in the struct that begins at `base`."""
    value: int = _NUMBERS[field.size].unpack_from(memory, base + field.offset)[0]
    return value


def raw(memory: memoryview | bytes, field: Field, base: int = 0) -> bytes:
    """The field's bytes in the struct that begins at `base`."""
    return bytes(memory[base + field.offset : base + field.offset + field.size])


def pack(size: int, values: dict[Field, int | bytes]) -> bytes:
    """A struct of `size` bytes with these fields set to numbers or raw bytes, and all others 0."""
    memory = bytearray(size)
    for field, value in values.items():
        if isinstance(value, bytes):
            memory[field.offset : field.offset + field.size] = value
        else:
            _NUMBERS[field.size].pack_into(memory, field.offset, value)
    return bytes(memory)


def address_of(endpoint: Endpoint) -> bytes:
    """The 16 bytes of the endpoint's address."""
    packed = endpoint.packed
    return packed if len(packed) == 16 else MAPPED_PREFIX + packed


def endpoint_of(address: bytes, port: bytes) -> Endpoint:
    """The endpoint with this address of 16 bytes and this raw port."""
    ip = unpack_ip(address.removeprefix(MAPPED_PREFIX))
    return Endpoint(ip, int.from_bytes(port, "big"))


def tuple_key(four_tuple: FourTuple) -> bytes:
    """The map key whose source is `local`."""
    local, remote = four_tuple
    return address_of(local) + address_of(remote) + struct.pack("!HH", local.port, remote.port)


def tuple_of(key: bytes) -> FourTuple:
    """The reverse of `tuple_key`."""
    return FourTuple(endpoint_of(key[:16], key[32:34]), endpoint_of(key[16:32], key[34:36]))
