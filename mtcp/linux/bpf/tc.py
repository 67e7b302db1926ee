"""The programs on a host's interfaces (TCX): they put the current server in the place of the one the socket knows.

Both: TCP over IPv4 and IPv6 over Ethernet. Fragments, packets with IP options or IPv6 extension headers and VLAN tags
inside the packet pass untouched, as does everything that belongs to no entry. R6 is the packet, R7 the entry.

Our control segments (first TCP option is ours, subtype other than CAPABLE) go out unmodified and never come in: agents
read them by AF_PACKET, which sees packets before these programs do on the way in. One of them means something to these
programs, too: ACCEPT.
"""

from __future__ import annotations

from mtcp.linux.bpf import macros, packet
from mtcp.linux.bpf.asm import FP, R0, R1, R2, R3, R4, R6, R7, R8, R9, Assembler, Field, Helper
from mtcp.linux.bpf.layout import (
    ATTEMPT_SHIFT,
    COMMIT_XOR,
    ENTRY,
    SERVER,
    STATE_MASK,
    SUBTYPE_ACCEPT,
    EntryFlag,
    EntryState,
    EventKind,
    Maps,
)

_ACCEPT = packet.OPTIONS + 6  # its body: behind kind, length, ExID, subtype and version, flags (mtcp.wire.options)


class _STACK(packet.STACK):
    """The packet, and room to work."""

    NEW_ACK = Field(-96, 4)
    WORD = Field(-100, 4)
    ACCEPT = Field(-124, 12)  # the option's body
    ATTEMPT = Field(-124, 4)
    MAC = Field(-120, 8)
    INDEX = Field(-128, 4)
    EVENT = Field(-144, 16)
    OLD_OPTIONS = Field(-148, 4)
    NEW_OPTIONS = Field(-152, 4)
    BLOCKS_AT = Field(-156, 4)  # where in the packet they begin


def egress(maps: Maps) -> bytes:
    """What the client's socket sends: recorded, held while migrating, else readdressed to the current server."""
    asm = Assembler()
    packet.read_headers(asm)
    macros.find_entry(asm, maps, maps.egress, _STACK.CONNECTION, _STACK.INDEX, "pass")
    packet.if_control_segment(asm, "pass")
    _pass_if_stale(asm)
    asm.load(R8, FP, _STACK.FLAGS)
    asm.jump("&", R8, packet.SYN, "new connection")
    macros.count(asm, ENTRY.EGRESS)
    _record_time_and_flags(asm)
    # The one decision, on one load of the word.
    asm.load(R9, R7, ENTRY.WORD)
    asm.store(FP, _STACK.WORD, R9)
    macros.slot(asm, R8, R9, current=True)
    asm.and_(R9, STATE_MASK)
    asm.jump("==", R9, EntryState.FREE, "pass")
    asm.jump("==", R9, EntryState.MIGRATING, "hold")
    _limit_and_record_acknowledgement(asm)
    _hide_gap(asm)
    packet.load_sequence_end(asm, R3)
    macros.store_latest(asm, R7, ENTRY.SND_NXT, R3)
    _write_acknowledgement(asm)
    packet.if_other_end(asm, R8, packet.CURRENT, _STACK.DESTINATION, "moved")
    asm.goto("pass")
    asm.label("moved")
    packet.copy_end(asm, R8, packet.CURRENT)
    asm.load(R1, R7, ENTRY.WORD)
    asm.load(R2, FP, _STACK.WORD)
    asm.jump("!=", R1, R2, "hold")
    packet.readdress(asm, _STACK.DESTINATION)
    # The next hop to the current server may be another one: a new look at routes and neighbours of the interface that
    # the agent has found. (bpf_fib_lookup works on hosts only that forward.) The packet comes by here once more with
    # its new destination, which is in no entry.
    asm.load(R1, R8, macros.server(SERVER.INTERFACE))
    asm.jump("!=", R1, 0, "interface known")
    asm.load(R1, R6, packet.SKB.IFINDEX)
    asm.label("interface known")
    asm.mov(R2, 0)
    asm.mov(R3, 0)
    asm.mov(R4, 0)
    asm.call(Helper.REDIRECT_NEIGH)
    asm.exit()

    asm.label("new connection")
    asm.mov(R1, EntryFlag.STALE)
    asm.atomic_fetch_or(R7, ENTRY.FLAGS, R1)
    asm.label("pass")
    asm.exit(packet.NEXT)
    # The kernel learns of the drop, takes new data as unsent and sends it on the next acknowledgement.
    asm.label("hold")
    macros.count(asm, ENTRY.HELD)
    asm.label("drop")
    asm.exit(packet.DROP)
    return asm.assemble()


def ingress(maps: Maps) -> bytes:
    """What comes for the client's socket: only the current server's segments, as if the original server had sent them.

    While migrating, the next server's ACCEPT of this attempt commits the move. No other segment of it does: it may
    have had the connection before, and what it sent then may still be on its way. On a server: the client's segments
    that were on their way when the connection left are dropped, for the kernel would answer them with RST.
    """
    asm = Assembler()
    packet.read_headers(asm)
    packet.if_control_segment(asm, "control segment")
    macros.find_entry(asm, maps, maps.ingress, _STACK.CONNECTION, _STACK.INDEX, "no entry")
    _pass_if_stale(asm)
    _pass_if_anew(asm)
    macros.count(asm, ENTRY.INGRESS)
    asm.call(Helper.KTIME_GET_NS)
    asm.store(R7, ENTRY.LAST_SEEN, R0)
    asm.load(R8, R7, ENTRY.WORD)
    macros.slot(asm, R9, R8, current=True)
    asm.and_(R8, STATE_MASK)
    asm.jump("==", R8, EntryState.FREE, "pass")
    packet.if_other_end(asm, R9, packet.CURRENT, _STACK.SOURCE, "not current")
    asm.jump("==", R8, EntryState.MIGRATING, "deaf")
    _see_sequence_end(asm)
    asm.goto("let in")

    asm.label("no entry")
    macros.lookup(asm, maps.departed, _STACK.CONNECTION, "pass")
    asm.load(R1, FP, _STACK.FLAGS)
    asm.jump("&", R1, packet.SYN, "anew")
    asm.exit(packet.DROP)
    asm.label("anew")
    macros.delete(asm, maps.departed, _STACK.CONNECTION)
    asm.exit(packet.NEXT)

    asm.label("not current")
    asm.load(R1, FP, _STACK.FLAGS)
    asm.jump("&", R1, packet.RST, "reset")
    macros.count(asm, ENTRY.OTHER_DROPPED)
    asm.label("drop")
    asm.exit(packet.DROP)
    asm.label("reset")
    macros.count(asm, ENTRY.RST_DROPPED)
    asm.exit(packet.DROP)
    asm.label("deaf")
    macros.count(asm, ENTRY.DEAF_DROPPED)
    asm.exit(packet.DROP)
    asm.label("forged")
    macros.count(asm, ENTRY.BAD_MAC)
    asm.exit(packet.DROP)
    asm.label("control segment")
    _commit_if_accepted(asm, maps)
    asm.exit(packet.DROP)

    asm.label("let in")
    packet.if_other_end(asm, R7, packet.ORIGINAL, _STACK.SOURCE, "moved")
    asm.goto("pass")
    asm.label("moved")
    packet.copy_end(asm, R7, packet.ORIGINAL)
    packet.readdress(asm, _STACK.SOURCE)
    asm.label("pass")
    asm.exit(packet.NEXT)
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
    packet.find_in_tcp(asm, _ACCEPT)
    packet.load_at_r2(asm, _STACK.ACCEPT, "drop")
    macros.find_entry(asm, maps, maps.ingress, _STACK.CONNECTION, _STACK.INDEX, "drop")
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
    macros.slot(asm, R9, R8, current=False)
    packet.if_other_end(asm, R9, packet.CURRENT, _STACK.SOURCE, "drop")
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


def _pass_if_stale(asm: Assembler) -> None:
    asm.load(R1, R7, ENTRY.FLAGS)
    asm.jump("&", R1, EntryFlag.STALE, "pass")


def _pass_if_anew(asm: Assembler) -> None:
    """To "pass", now and from now on, when a SYN-ACK comes after the end of a connection.

    It is for a new one, from the same port to a server that the old one had moved to. Translated, it would reach the
    old one's TIME_WAIT, whose answer the server takes for the new client's, and resets.
    """
    still_open = asm.unique("still open")
    asm.load(R1, R7, ENTRY.FLAGS)
    asm.and_(R1, EntryFlag.CLOSED)
    asm.jump("==", R1, 0, still_open)
    asm.load(R1, FP, _STACK.FLAGS)
    asm.and_(R1, packet.SYN)
    asm.jump("==", R1, 0, still_open)
    asm.mov(R1, EntryFlag.STALE)
    asm.atomic_fetch_or(R7, ENTRY.FLAGS, R1)
    asm.goto("pass")
    asm.label(still_open)


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
    asm.and_(R1, packet.ACK)
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


def _hide_gap(asm: Assembler) -> None:
    """Say nothing of what the client has behind a gap in the data of a server that has been left.

    The current server sends all of that again. It would take the gap for a loss of its own, leave slow start at once,
    and be slow for seconds. What it does lose meanwhile, its timers tell. The word with which the option begins
    becomes the end of all options (RFC 9293, 3.2): one change of the checksum, whatever the number of blocks.
    """
    for offset, words in ((packet.OPTIONS, 8), (packet.OPTIONS + 12, 11)):  # with time stamps they come first
        following = asm.unique("no blocks here")
        asm.load(R1, FP, _STACK.DATA_OFFSET)
        asm.jump("<", R1, words << 4, "no gap")  # too short for a block
        packet.find_in_tcp(asm, offset)
        asm.store(FP, _STACK.BLOCKS_AT, R2)
        packet.load_at_r2(asm, _STACK.OLD_OPTIONS, "no gap")
        asm.load(R1, FP, _STACK.OLD_OPTIONS)
        asm.swap_be(R1, 32)
        asm.rsh(R1, 8)
        asm.jump("!=", R1, packet.SACK, following)
        asm.goto("gap")
        asm.label(following)
    asm.label("no gap")
    asm.store(R7, ENTRY.HAS_GAP, 0)
    asm.goto("gap done")
    asm.label("gap")
    asm.load(R1, R7, ENTRY.HIDES_GAP)
    asm.jump("==", R1, 0, "own gap")
    asm.load(R1, R7, ENTRY.GAP_END)
    asm.load(R2, FP, _STACK.ACK)
    asm.swap_be(R2, 32)
    asm.sub(R1, R2, bits=32)
    asm.jump("s<=", R1, 0, "gap passed", bits=32)
    asm.store(FP, _STACK.NEW_OPTIONS, 0)
    packet.replace_in_checksum(asm, _STACK.OLD_OPTIONS, _STACK.NEW_OPTIONS)
    asm.load(R2, FP, _STACK.BLOCKS_AT)
    packet.write_at_r2(asm, _STACK.NEW_OPTIONS)
    asm.goto("gap done")
    asm.label("gap passed")
    asm.store(R7, ENTRY.HIDES_GAP, 0)
    asm.label("own gap")
    asm.store(R7, ENTRY.HAS_GAP, 1)
    asm.label("gap done")


def _write_acknowledgement(asm: Assembler) -> None:
    asm.load(R1, FP, _STACK.ACK)
    asm.load(R2, FP, _STACK.NEW_ACK)
    asm.jump("==", R1, R2, "acknowledgement stays")
    packet.replace_in_checksum(asm, _STACK.ACK, _STACK.NEW_ACK)
    packet.find_in_tcp(asm, packet.ACKNOWLEDGEMENT)
    packet.write_at_r2(asm, _STACK.NEW_ACK)
    macros.count(asm, ENTRY.CLAMPED)
    asm.label("acknowledgement stays")


def _see_sequence_end(asm: Assembler) -> None:
    """Note what the server in the slot at R9 has sent; uses R0-R2 and R9.

    A RST's sequence number says nothing about data sent.
    """
    done = asm.unique("seen")
    asm.load(R1, FP, _STACK.FLAGS)
    asm.jump("&", R1, packet.RST, done)
    packet.load_sequence_end(asm, R3)
    macros.store_latest(asm, R9, macros.server(SERVER.SEQ_MAX), R3)
    asm.label(done)
