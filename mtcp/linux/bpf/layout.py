"""What the BPF programs and Python share: struct layouts, keys, state words. Declared here and nowhere else.

Numbers are in the machine's byte order unless called raw: raw fields hold the bytes of the packet.

**An endpoint** is one u64, so that a CPU reads address and port in one piece:
raw port << 32 | raw IPv4 address, both as a native load of the packet's bytes gives them.

**The state word.** Everything that decides where a segment goes is in one u32, changed by compare-and-exchange only:

    bits 0-3  EntryState      bit 4  which of the two server slots is current      bits 8-31  attempt

A program loads it once and acts on that value. The move commits when the ingress program exchanges
(attempt, slot, MIGRATING) for (attempt, other slot, TRACKED); abort exchanges the same word for (attempt, slot,
TRACKED): one of the two fails. As slot and state change together no CPU can see the new state with the old
server. `begin` writes the slot that is not current *before* it exchanges TRACKED for MIGRATING, so whoever sees
MIGRATING sees the new server and the MAC of its ACCEPT, too (the exchange is a full barrier). The attempt number keeps
a slow CPU from committing an attempt that was aborted and begun anew with another server. A CPU which is so slow that
it uses a TRACKED word of before a commit when the next `begin` has already overwritten that slot compares with, or
sends to, the server that is `next`; such a segment is dropped or answered by a RST, which is dropped. Both heal as a
loss does.

IPv6 will be a second pair of hash maps with 36-byte keys, and entries with 16-byte addresses.
"""

from __future__ import annotations

import socket
import struct
import sys
from enum import IntEnum, IntFlag
from typing import NamedTuple

from mtcp.address import Endpoint, FourTuple, unpack_ip
from mtcp.linux.bpf.asm import Field

LAYOUT_VERSION = 2  # part of the names of maps; raise it whenever anything below changes

# -- TCP option (PROTOCOL.md, set-up) --

OPTION_KIND = 253  # experimental, RFC 6994
OPTION_EXID = 0x4D54
OPTION_VERSION = 1
SUBTYPE_CAPABLE = 1
SUBTYPE_ACCEPT = 3
CAPABLE_BYTE = SUBTYPE_CAPABLE << 4 | OPTION_VERSION  # fifth byte of the option
SYN_OPTION_LENGTH = 8
SYNACK_OPTION_LENGTH = 16
KEY_LENGTH = 8


class EntryState(IntEnum):
    """Who may speak. Whether the connection was moved is not a state: then current is not the original server."""

    FREE = 0
    TRACKED = 1  # all to and from the current server
    MIGRATING = 2  # outgoing segments are held, the current server is not heard, the next one's ACCEPT commits


STATE_MASK = 0x0F
SLOT_BIT = 0x10  # equals SERVER.SIZE, so that `word & SLOT_BIT` is the current slot's offset
ATTEMPT_SHIFT = 8
COMMIT_XOR = SLOT_BIT | EntryState.MIGRATING ^ EntryState.TRACKED
ABORT_XOR = EntryState.MIGRATING ^ EntryState.TRACKED


class EntryFlag(IntFlag):
    CLOSED = 1  # the client's socket is in state CLOSE (or TIME_WAIT, which has no socket)
    STALE = 2  # a new SYN went out on this 4-tuple: both directions pass untouched


class SERVER:
    """A server slot in an entry."""

    SIZE = 16
    ADDRESS = Field(0, 8)  # endpoint
    SEQ_MAX = Field(8, 4)  # end of what this server has been seen to send: acknowledgements never pass it


class ENTRY:
    """A connection of this client."""

    SIZE = 192
    WORD = Field(0, 4)
    FLAGS = Field(4, 4)  # EntryFlag
    KEY = Field(8, 8)  # as in the SYN-ACK
    COOKIE = Field(16, 8)  # of the socket; tells connections apart that use the same entry one after another
    CLIENT = Field(24, 8)  # endpoint
    ORIGINAL = Field(32, 8)  # endpoint: the server as the socket knows it
    SERVERS = Field(40, 32)  # two SERVER slots: current and next or previous
    RCV_NXT = Field(72, 4)  # latest acknowledgement that went out, as the server saw it
    SND_NXT = Field(76, 4)  # end of what went out
    WINDOW = Field(80, 4)  # unscaled, of the segment that RCV_NXT is from
    TCP_FLAGS = Field(84, 4)  # all that went out, or-ed
    LAST_SEEN = Field(88, 8)  # CLOCK_MONOTONIC, ns: last segment in either direction
    COMMITTED_AT = Field(96, 8)  # CLOCK_MONOTONIC, ns; 0: never
    EGRESS = Field(104, 8)  # counters of segments (GSO packets count once)
    INGRESS = Field(112, 8)
    HELD = Field(120, 8)
    DEAF_DROPPED = Field(128, 8)
    OTHER_DROPPED = Field(136, 8)
    RST_DROPPED = Field(144, 8)
    CLAMPED = Field(152, 8)
    BAD_MAC = Field(160, 8)
    ACCEPT_MAC = Field(168, 8)  # raw: of the ACCEPT that may commit this attempt


COUNTERS: dict[str, Field] = {
    "egress": ENTRY.EGRESS,  # segments that the socket sent
    "ingress": ENTRY.INGRESS,  # segments that came for it
    "held": ENTRY.HELD,  # dropped while migrating; the kernel sends them again
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

    SIZE = 40
    INDEX = Field(0, 4)
    EXPECTED = Field(4, 4)  # the state word the agent saw
    REPLACEMENT = Field(8, 4)  # the state word it wants
    COOKIE = Field(16, 8)
    NEXT = Field(24, 8)  # endpoint to put into the slot that is not current; 0: leave it
    ACCEPT_MAC = Field(32, 8)  # raw: goes with NEXT


class TUPLE:
    """Key of all connection maps, in the order of a packet's bytes: source (or local) first."""

    SIZE = 12
    SOURCE_IP = Field(0, 4)
    DESTINATION_IP = Field(4, 4)
    SOURCE_PORT = Field(8, 2)
    DESTINATION_PORT = Field(10, 2)


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


_NUMBERS = {1: struct.Struct("=B"), 2: struct.Struct("=H"), 4: struct.Struct("=I"), 8: struct.Struct("=Q")}


def read(memory: memoryview | bytes, field: Field, base: int = 0) -> int:
    """The field's number in the struct that begins at `base`."""
    value: int = _NUMBERS[field.size].unpack_from(memory, base + field.offset)[0]
    return value


def pack(size: int, values: dict[Field, int]) -> bytes:
    """A struct of `size` bytes with these fields set and all others 0."""
    memory = bytearray(size)
    for field, value in values.items():
        _NUMBERS[field.size].pack_into(memory, field.offset, value)
    return bytes(memory)


def endpoint_number(endpoint: Endpoint) -> int:
    """The u64 form. ValueError unless the address is IPv4."""
    if len(endpoint.packed) != 4:
        raise ValueError(f"{endpoint} is not IPv4")
    address, port = struct.unpack("=IH", endpoint.packed + struct.pack("!H", endpoint.port))
    return int(port) << 32 | int(address)


def endpoint_of(number: int) -> Endpoint:
    """The reverse of `endpoint_number`."""
    address, port = number & 0xFFFFFFFF, number >> 32
    return Endpoint(unpack_ip(address.to_bytes(4, sys.byteorder)), socket.ntohs(port))


def tuple_key(four_tuple: FourTuple) -> bytes:
    """The map key whose source is `local`. ValueError unless both are IPv4."""
    local, remote = four_tuple
    if len(local.packed) != 4 or len(remote.packed) != 4:
        raise ValueError(f"{four_tuple} is not IPv4")
    return local.packed + remote.packed + struct.pack("!HH", local.port, remote.port)
