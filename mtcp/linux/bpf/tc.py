"""The programs on a host's interfaces (TCX): they put the current server in the place of the one the socket knows.

Both: IPv4 TCP over Ethernet. Fragments, packets with IP options, VLAN tags inside the packet and IPv6 pass untouched,
as does everything that belongs to no entry. R6 is the packet, R7 the entry, R9 the state word (ingress: R8).

Our control segments (first TCP option is ours, subtype other than CAPABLE) go out unmodified and never come in: agents
read them by AF_PACKET, which sees packets before these programs do on the way in. One of them means something to these
programs, too: ACCEPT.
"""

from __future__ import annotations

import struct

from mtcp.linux.bpf import macros
from mtcp.linux.bpf.asm import FP, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Assembler, Field, Helper, Reg
from mtcp.linux.bpf.layout import (
    ATTEMPT_SHIFT,
    COMMIT_XOR,
    ENTRY,
    OPTION_EXID,
    OPTION_KIND,
    SERVER,
    STATE_MASK,
    SUBTYPE_ACCEPT,
    SUBTYPE_CAPABLE,
    EntryFlag,
    EntryState,
    EventKind,
    Maps,
)

_NEXT, _DROP = -1, 2  # verdicts: TCX_NEXT lets other programs and then the kernel have it, TC_ACT_SHOT
_ETH_P_IP = struct.unpack("=H", struct.pack("!H", 0x0800))[0]
_FIN, _SYN, _RST, _ACK = 0x01, 0x02, 0x04, 0x10
_PSEUDO_HEADER = 0x10  # l4_csum_replace: the address is part of the pseudo header
_ETHERNET, _IP_LENGTH, _TCP_LENGTH = 14, 20, 20
_IP_CHECKSUM, _TCP_CHECKSUM = _ETHERNET + 10, _ETHERNET + _IP_LENGTH + 16
_OPTIONS = _ETHERNET + _IP_LENGTH + _TCP_LENGTH
_ACCEPT = _OPTIONS + 6  # its body: behind kind, length, ExID, subtype and version, flags (mtcp.wire.options)
_ACKNOWLEDGEMENT = _ETHERNET + _IP_LENGTH + 8


class _SKB:
    """struct __sk_buff."""

    LEN = Field(0, 4)
    PROTOCOL = Field(16, 4)
    IFINDEX = Field(40, 4)


class _STACK:
    """Both headers as they are in the packet, and room to work."""

    HEADERS = Field(-40, 40)
    VERSION_IHL = Field(-40, 1)
    TOTAL_LENGTH = Field(-38, 2)
    FRAGMENT = Field(-34, 2)
    PROTOCOL = Field(-31, 1)
    SOURCE_IP = Field(-28, 4)  # here begins a map key (layout.TUPLE)
    DESTINATION_IP = Field(-24, 4)
    SOURCE_PORT = Field(-20, 2)
    DESTINATION_PORT = Field(-18, 2)
    SEQ = Field(-16, 4)
    ACK = Field(-12, 4)
    DATA_OFFSET = Field(-8, 1)
    FLAGS = Field(-7, 1)
    WINDOW = Field(-6, 2)
    OPTION_WORD = Field(-48, 4)  # kind, length, ExID
    OPTION_SUBTYPE = Field(-44, 1)
    INDEX = Field(-52, 4)
    NEW_IP = Field(-56, 4)
    NEW_PORT = Field(-60, 2)
    NEW_ACK = Field(-64, 4)
    ACCEPT = Field(-84, 12)  # the option's body
    ATTEMPT = Field(-84, 4)
    MAC = Field(-80, 8)
    EVENT = Field(-104, 16)


def egress(maps: Maps) -> bytes:
    """What the client's socket sends: recorded, held while migrating, else readdressed to the current server."""
    asm = Assembler()
    _read_headers(asm)
    macros.find_entry(asm, maps, maps.egress, _STACK.SOURCE_IP, _STACK.INDEX, "pass")
    _if_control_segment(asm, "pass")
    _pass_if_stale(asm)
    asm.load(R8, FP, _STACK.FLAGS)
    asm.jump("&", R8, _SYN, "new connection")
    macros.count(asm, ENTRY.EGRESS)
    _record_time_and_flags(asm)
    # The one decision, on one load of the word.
    asm.load(R9, R7, ENTRY.WORD)
    macros.slot(asm, R8, R9, current=True)
    asm.and_(R9, STATE_MASK)
    asm.jump("==", R9, EntryState.FREE, "pass")
    asm.jump("==", R9, EntryState.MIGRATING, "hold")
    _limit_and_record_acknowledgement(asm)
    _load_sequence_end(asm, R3)
    macros.store_latest(asm, R7, ENTRY.SND_NXT, R3)
    asm.load(R9, R8, macros.server(SERVER.ADDRESS))
    _write_acknowledgement(asm)
    _load_endpoint(asm, R8, _STACK.DESTINATION_IP, _STACK.DESTINATION_PORT)
    asm.jump("==", R8, R9, "pass")
    _readdress(asm, R9, _STACK.DESTINATION_IP, _STACK.DESTINATION_PORT)
    # The next hop to the current server may be another one: a new look at routes and neighbours. The packet comes by
    # here once more with its new destination, which is in no entry.
    asm.load(R1, R6, _SKB.IFINDEX)
    asm.mov(R2, 0)
    asm.mov(R3, 0)
    asm.mov(R4, 0)
    asm.call(Helper.REDIRECT_NEIGH)
    asm.exit()

    asm.label("new connection")
    asm.mov(R1, EntryFlag.STALE)
    asm.atomic_fetch_or(R7, ENTRY.FLAGS, R1)
    asm.label("pass")
    asm.exit(_NEXT)
    asm.label(
        "hold"
    )  # the kernel learns of the drop, takes new data as unsent and sends it on the next acknowledgement
    macros.count(asm, ENTRY.HELD)
    asm.label("drop")
    asm.exit(_DROP)
    return asm.assemble()


def ingress(maps: Maps) -> bytes:
    """What comes for the client's socket: only the current server's segments, as if the original server had sent them.

    While migrating, the next server's ACCEPT of this attempt commits the move. No other segment of it does: it may
    have had the connection before, and what it sent then may still be on its way.
    """
    asm = Assembler()
    _read_headers(asm)
    _if_control_segment(asm, "control segment")
    macros.find_entry(asm, maps, maps.ingress, _STACK.SOURCE_IP, _STACK.INDEX, "pass")
    _pass_if_stale(asm)
    macros.count(asm, ENTRY.INGRESS)
    asm.call(Helper.KTIME_GET_NS)
    asm.store(R7, ENTRY.LAST_SEEN, R0)
    asm.load(R8, R7, ENTRY.WORD)
    _load_endpoint(asm, R9, _STACK.SOURCE_IP, _STACK.SOURCE_PORT)
    macros.slot(asm, R1, R8, current=True)
    asm.load(R1, R1, macros.server(SERVER.ADDRESS))
    asm.mov(R2, R8)
    asm.and_(R2, STATE_MASK)
    asm.jump("==", R2, EntryState.FREE, "pass")
    asm.jump("!=", R1, R9, "not current")
    asm.jump("==", R2, EntryState.MIGRATING, "deaf")
    macros.slot(asm, R9, R8, current=True)
    _see_sequence_end(asm)
    asm.goto("let in")

    asm.label("not current")
    asm.load(R1, FP, _STACK.FLAGS)
    asm.jump("&", R1, _RST, "reset")
    macros.count(asm, ENTRY.OTHER_DROPPED)
    asm.label("drop")
    asm.exit(_DROP)
    asm.label("reset")
    macros.count(asm, ENTRY.RST_DROPPED)
    asm.exit(_DROP)
    asm.label("deaf")
    macros.count(asm, ENTRY.DEAF_DROPPED)
    asm.exit(_DROP)
    asm.label("forged")
    macros.count(asm, ENTRY.BAD_MAC)
    asm.exit(_DROP)
    asm.label("control segment")
    _commit_if_accepted(asm, maps)
    asm.exit(_DROP)

    asm.label("let in")
    asm.load(R9, R7, ENTRY.ORIGINAL)
    _load_endpoint(asm, R8, _STACK.SOURCE_IP, _STACK.SOURCE_PORT)
    asm.jump("==", R8, R9, "pass")
    _readdress(asm, R9, _STACK.SOURCE_IP, _STACK.SOURCE_PORT)
    asm.label("pass")
    asm.exit(_NEXT)
    return asm.assemble()


def _commit_if_accepted(asm: Assembler, maps: Maps) -> None:
    """A control segment, its OPTION_SUBTYPE on the stack: commit if it is the ACCEPT that this attempt waits for.

    To "drop" if not. The MAC is what nobody can guess who has not seen the handshake: attempts are small numbers. Its
    comparison need not take constant time, as it is one of 64 bits at once: how long it takes tells nothing but its
    outcome, which is no secret, and each wrong guess costs a packet.
    """
    asm.load(R1, FP, _STACK.OPTION_SUBTYPE)
    asm.rsh(R1, 4)
    asm.jump("!=", R1, SUBTYPE_ACCEPT, "drop")
    _load_bytes(asm, _ACCEPT, _STACK.ACCEPT, "drop")
    macros.find_entry(asm, maps, maps.ingress, _STACK.SOURCE_IP, _STACK.INDEX, "drop")
    asm.load(R1, R7, ENTRY.FLAGS)
    asm.jump("&", R1, EntryFlag.STALE, "drop")
    asm.load(R8, R7, ENTRY.WORD)
    asm.mov(R2, R8)
    asm.and_(R2, STATE_MASK)
    asm.jump("!=", R2, EntryState.MIGRATING, "drop")
    asm.mov(R1, R8)
    asm.rsh(R1, ATTEMPT_SHIFT)
    asm.load(R2, FP, _STACK.ATTEMPT)
    asm.swap_be(R2, 32)
    asm.jump("!=", R1, R2, "drop")
    _load_endpoint(asm, R9, _STACK.SOURCE_IP, _STACK.SOURCE_PORT)
    macros.slot(asm, R3, R8, current=False)
    asm.load(R3, R3, macros.server(SERVER.ADDRESS))
    asm.jump("!=", R3, R9, "drop")
    asm.load(R1, FP, _STACK.MAC)
    asm.load(R2, R7, ENTRY.ACCEPT_MAC)
    asm.jump("!=", R1, R2, "forged")
    asm.mov(R0, R8)
    asm.mov(R2, R8)
    asm.xor(R2, COMMIT_XOR)
    asm.compare_exchange(R7, ENTRY.WORD, R2)
    asm.jump("!=", R0, R8, "drop")  # another CPU was faster: with the same commit, or the agent with an abort
    asm.call(Helper.KTIME_GET_NS)
    asm.store(R7, ENTRY.COMMITTED_AT, R0)
    macros.emit_event(asm, maps, EventKind.COMMITTED, _STACK.INDEX, _STACK.EVENT)


def _read_headers(asm: Assembler) -> None:
    """R6 = packet, its headers on the stack; all but plain IPv4 TCP goes to "pass"."""
    asm.mov(R6, R1)
    asm.load(R2, R6, _SKB.PROTOCOL)
    asm.jump("!=", R2, _ETH_P_IP, "pass")
    _load_bytes(asm, _ETHERNET, _STACK.HEADERS, "pass")
    asm.load(R2, FP, _STACK.VERSION_IHL)
    asm.jump("!=", R2, 0x45, "pass")
    asm.load(R2, FP, _STACK.PROTOCOL)
    asm.jump("!=", R2, 6, "pass")
    asm.load(R2, FP, _STACK.FRAGMENT)
    asm.swap_be(R2, 16)
    asm.jump("&", R2, 0x3FFF, "pass")  # more fragments, or not the first


def _load_bytes(asm: Assembler, offset: int, to: Field, failed: str) -> None:
    asm.mov(R1, R6)
    asm.mov(R2, offset)
    asm.address_of(R3, FP, to)
    asm.mov(R4, to.size)
    asm.call(Helper.SKB_LOAD_BYTES)
    asm.jump("!=", R0, 0, failed)


def _if_control_segment(asm: Assembler, label: str) -> None:
    """To `label` if the first TCP option is ours and not CAPABLE."""
    otherwise = asm.unique("no control segment")
    asm.load(R2, FP, _STACK.DATA_OFFSET)
    asm.jump("<", R2, 7 << 4, otherwise)  # too short for one
    _load_bytes(asm, _OPTIONS, Field(_STACK.OPTION_WORD.offset, 8), otherwise)
    asm.load(R2, FP, _STACK.OPTION_WORD)
    asm.swap_be(R2, 32)
    asm.and_(R2, 0xFF00FFFF, bits=32)  # without the length
    asm.jump("!=", R2, OPTION_KIND << 24 | OPTION_EXID, otherwise, bits=32)
    asm.load(R2, FP, _STACK.OPTION_SUBTYPE)
    asm.rsh(R2, 4)
    asm.jump("!=", R2, SUBTYPE_CAPABLE, label)
    asm.label(otherwise)


def _pass_if_stale(asm: Assembler) -> None:
    asm.load(R1, R7, ENTRY.FLAGS)
    asm.jump("&", R1, EntryFlag.STALE, "pass")


def _record_time_and_flags(asm: Assembler) -> None:
    """R8: the segment's flags."""
    asm.call(Helper.KTIME_GET_NS)
    asm.store(R7, ENTRY.LAST_SEEN, R0)
    asm.load(R1, R7, ENTRY.TCP_FLAGS)
    asm.mov(R2, R1)
    asm.or_(R2, R8)
    asm.jump("==", R1, R2, "flags known")  # an atomic operation only when there is news
    asm.atomic_fetch_or(R7, ENTRY.TCP_FLAGS, R2)
    asm.label("flags known")


def _limit_and_record_acknowledgement(asm: Assembler) -> None:
    """NEW_ACK = what may be acknowledged to the current server (slot in R8): never more than it has been seen to send.

    After a move the socket may have taken late segments of the old server that the current one did not send yet; it
    would discard such acknowledgements, for ever if they are far enough ahead. The limited number is also what the
    entry records: the next server learns it as rcv_nxt, and the current one must not find it too high. For the same
    reason a held acknowledgement is not recorded.
    """
    asm.load(R3, FP, _STACK.ACK)
    asm.store(FP, _STACK.NEW_ACK, R3)
    asm.load(R1, FP, _STACK.FLAGS)
    asm.and_(R1, _ACK)
    asm.jump("==", R1, 0, "recorded")
    asm.swap_be(R3, 32)
    asm.load(R1, R8, macros.server(SERVER.SEQ_MAX))
    asm.mov(R2, R3, bits=32)
    asm.sub(R2, R1, bits=32)
    asm.jump("s<=", R2, 0, "limited", bits=32)
    asm.mov(R3, R1)
    asm.swap_be(R1, 32)
    asm.store(FP, _STACK.NEW_ACK, R1)
    asm.label("limited")
    asm.load(R1, R7, ENTRY.RCV_NXT)
    asm.mov(R2, R3, bits=32)
    asm.sub(R2, R1, bits=32)
    asm.jump("s<", R2, 0, "recorded", bits=32)
    asm.load(R1, FP, _STACK.WINDOW)
    asm.swap_be(R1, 16)
    asm.store(R7, ENTRY.WINDOW, R1)
    macros.store_latest(asm, R7, ENTRY.RCV_NXT, R3)
    asm.label("recorded")


def _write_acknowledgement(asm: Assembler) -> None:
    asm.load(R1, FP, _STACK.ACK)
    asm.load(R2, FP, _STACK.NEW_ACK)
    asm.jump("==", R1, R2, "acknowledgement stays")
    _replace_checksum(asm, Helper.L4_CSUM_REPLACE, _TCP_CHECKSUM, _STACK.ACK, _STACK.NEW_ACK, 0)
    _write_bytes(asm, _ACKNOWLEDGEMENT, _STACK.NEW_ACK)
    macros.count(asm, ENTRY.CLAMPED)
    asm.label("acknowledgement stays")


def _load_sequence_end(asm: Assembler, dst: Reg) -> None:
    """dst = sequence number after the segment, in host order; uses R1, R2."""
    counted = asm.unique("length known")
    asm.load(R1, FP, _STACK.TOTAL_LENGTH)
    asm.swap_be(R1, 16)
    asm.jump("!=", R1, 0, counted)
    asm.load(R1, R6, _SKB.LEN)  # BIG TCP: more than 16 bits can say
    asm.sub(R1, _ETHERNET)
    asm.label(counted)
    asm.sub(R1, _IP_LENGTH)
    asm.load(R2, FP, _STACK.DATA_OFFSET)
    asm.rsh(R2, 4)
    asm.lsh(R2, 2)
    asm.sub(R1, R2)
    asm.load(R2, FP, _STACK.FLAGS)
    asm.and_(R2, _FIN)
    asm.add(R1, R2)
    asm.load(dst, FP, _STACK.SEQ)
    asm.swap_be(dst, 32)
    asm.add(dst, R1, bits=32)


def _see_sequence_end(asm: Assembler) -> None:
    """Note what the server in the slot at R9 has sent; uses R0-R2 and R9.

    A RST's sequence number says nothing about data sent.
    """
    done = asm.unique("seen")
    asm.load(R1, FP, _STACK.FLAGS)
    asm.jump("&", R1, _RST, done)
    _load_sequence_end(asm, R3)
    macros.store_latest(asm, R9, macros.server(SERVER.SEQ_MAX), R3)
    asm.label(done)


def _load_endpoint(asm: Assembler, dst: Reg, address: Field, port: Field) -> None:
    """dst = endpoint (see layout) of the packet; uses R1."""
    asm.load(dst, FP, port)
    asm.lsh(dst, 32)
    asm.load(R1, FP, address)
    asm.or_(dst, R1)


def _readdress(asm: Assembler, target: Reg, address: Field, port: Field) -> None:
    """Replace address and port of the packet, which are at these places on the stack, by the endpoint in `target`."""
    same_port = asm.unique("same port")
    asm.store(FP, _STACK.NEW_IP, target)
    asm.rsh(target, 32)
    asm.store(FP, _STACK.NEW_PORT, target)
    in_packet = _ETHERNET - _STACK.HEADERS.offset
    _replace_checksum(asm, Helper.L3_CSUM_REPLACE, _IP_CHECKSUM, address, _STACK.NEW_IP, 0)
    _replace_checksum(asm, Helper.L4_CSUM_REPLACE, _TCP_CHECKSUM, address, _STACK.NEW_IP, _PSEUDO_HEADER)
    _write_bytes(asm, in_packet + address.offset, _STACK.NEW_IP)
    asm.load(R1, FP, port)
    asm.jump("==", R1, target, same_port)
    _replace_checksum(asm, Helper.L4_CSUM_REPLACE, _TCP_CHECKSUM, port, _STACK.NEW_PORT, 0)
    _write_bytes(asm, in_packet + port.offset, _STACK.NEW_PORT)
    asm.label(same_port)


def _replace_checksum(asm: Assembler, helper: Helper, at: int, old: Field, new: Field, flags: int) -> None:
    """Correct the checksum at this offset for the change from `old` to `new`, both on the stack."""
    asm.mov(R1, R6)
    asm.mov(R2, at)
    asm.load(R3, FP, old)
    asm.load(R4, FP, new)
    asm.mov(R5, flags | old.size)
    asm.call(helper)
    asm.jump("!=", R0, 0, "drop")


def _write_bytes(asm: Assembler, at: int, source: Field) -> None:
    asm.mov(R1, R6)
    asm.mov(R2, at)
    asm.address_of(R3, FP, source)
    asm.mov(R4, source.size)
    asm.mov(R5, 0)
    asm.call(Helper.SKB_STORE_BYTES)
    asm.jump("!=", R0, 0, "drop")
