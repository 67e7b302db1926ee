"""A packet on its way through an interface: where its headers are, and how a program changes an end of its connection.

TCP over IPv4 and IPv6 over Ethernet. R6 is the packet. All but plain TCP (fragments, IP options, extension headers)
goes to label "pass", what cannot be changed to label "drop".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mtcp.linux.bpf import macros
from mtcp.linux.bpf.asm import FP, R0, R1, R2, R3, R4, R5, R6, R9, Assembler, Field, Helper, Reg
from mtcp.linux.bpf.layout import ENTRY, OPTION_EXID, OPTION_KIND, SERVER, SUBTYPE_CAPABLE, TUPLE

ETH_P_IP, ETH_P_IPV6 = (struct.unpack("=H", struct.pack("!H", number))[0] for number in (0x0800, 0x86DD))
NEXT, DROP = -1, 2  # verdicts: TCX_NEXT lets other programs and then the kernel have it, TC_ACT_SHOT
TCP, FIN, SYN, RST, ACK = 6, 0x01, 0x02, 0x04, 0x10
_PSEUDO_HEADER = 0x10  # l4_csum_replace: the address is part of the pseudo header
ETHERNET, IPV4_LENGTH, IPV6_LENGTH, _TCP_LENGTH = 14, 20, 40, 20
_IPV4_CHECKSUM = ETHERNET + 10
SACK = 0x010105  # two fillers and the option's kind, as the kernel writes them
ACKNOWLEDGEMENT, _CHECKSUM, OPTIONS = 8, 16, _TCP_LENGTH  # offsets in the TCP header


class SKB:
    """struct __sk_buff."""

    LEN = Field(0, 4)
    PROTOCOL = Field(16, 4)
    IFINDEX = Field(40, 4)


class End(NamedTuple):
    """Where address and port of one end of a connection are."""

    address: Field
    port: Field


CURRENT = End(macros.server(SERVER.ADDRESS), macros.server(SERVER.PORT))  # in the slot that macros.slot finds
ORIGINAL = End(ENTRY.SOCKET.part(TUPLE.DESTINATION_IP), ENTRY.SOCKET.part(TUPLE.DESTINATION_PORT))
_LAST_WORD = Field(12, 4)  # of an address: all there is of IPv4's


class _IPV4:
    VERSION_IHL = Field(0, 1)
    TOTAL_LENGTH = Field(2, 2)
    FRAGMENT = Field(6, 2)
    PROTOCOL = Field(9, 1)
    SOURCE = Field(12, 4)  # DESTINATION, behind it, ends where TUPLE.DESTINATION_IP ends


class _IPV6:
    PAYLOAD_LENGTH = Field(4, 2)
    NEXT_HEADER = Field(6, 1)


class STACK:
    """Both headers as they are in an IPv6 packet (those of IPv4 are made so), and room to work."""

    IPV6 = Field(-64, IPV6_LENGTH + _TCP_LENGTH)
    IPV4 = Field(-44, IPV4_LENGTH + _TCP_LENGTH)
    CONNECTION = Field(-56, TUPLE.SIZE)
    SOURCE = End(CONNECTION.part(TUPLE.SOURCE_IP), CONNECTION.part(TUPLE.SOURCE_PORT))
    DESTINATION = End(CONNECTION.part(TUPLE.DESTINATION_IP), CONNECTION.part(TUPLE.DESTINATION_PORT))
    SEQ = Field(-20, 4)
    ACK = Field(-16, 4)
    DATA_OFFSET = Field(-12, 1)
    FLAGS = Field(-11, 1)
    WINDOW = Field(-10, 2)
    TCP_AT = Field(-68, 4)  # offset in the packet
    TCP_SIZE = Field(-72, 4)  # header and payload
    NEW = End(Field(-88, 16), Field(-92, 2))
    OPTION = Field(-108, 8)
    OPTION_WORD = Field(-108, 4)  # kind, length, ExID
    OPTION_SUBTYPE = Field(-104, 1)


_ADDRESS_AT = {  # in the packet, by IPv4 and by IPv6
    STACK.SOURCE: (ETHERNET + 12, ETHERNET + 8),
    STACK.DESTINATION: (ETHERNET + 16, ETHERNET + 24),
}


def read_headers(asm: Assembler, network: int = ETHERNET) -> None:
    """R6 = packet, its headers on the stack; all but plain TCP goes to "pass". `network`: where the IP header is."""
    asm.mov(R6, R1)
    asm.load(R2, R6, SKB.PROTOCOL)
    asm.jump("==", R2, ETH_P_IP, "ipv4")
    asm.jump("!=", R2, ETH_P_IPV6, "pass")
    asm.mov(R2, network)
    load_at_r2(asm, STACK.IPV6, "pass")
    asm.load(R2, FP, STACK.IPV6.part(_IPV6.NEXT_HEADER))
    asm.jump("!=", R2, TCP, "pass")
    asm.load(R1, FP, STACK.IPV6.part(_IPV6.PAYLOAD_LENGTH))
    asm.swap_be(R1, 16)
    _store_tcp_place(asm, network + IPV6_LENGTH)
    asm.goto("headers read")

    asm.label("ipv4")
    asm.mov(R2, network)
    load_at_r2(asm, STACK.IPV4, "pass")
    asm.load(R2, FP, STACK.IPV4.part(_IPV4.VERSION_IHL))
    asm.jump("!=", R2, 0x45, "pass")
    asm.load(R2, FP, STACK.IPV4.part(_IPV4.PROTOCOL))
    asm.jump("!=", R2, TCP, "pass")
    asm.load(R2, FP, STACK.IPV4.part(_IPV4.FRAGMENT))
    asm.swap_be(R2, 16)
    asm.jump("&", R2, 0x3FFF, "pass")  # more fragments, or not the first
    asm.load(R1, FP, STACK.IPV4.part(_IPV4.TOTAL_LENGTH))
    asm.swap_be(R1, 16)
    asm.load(R3, FP, STACK.IPV4.part(_IPV4.SOURCE))
    macros.store_mapped_prefix(asm, STACK.SOURCE.address)
    asm.store(FP, STACK.SOURCE.address.part(_LAST_WORD), R3)
    macros.store_mapped_prefix(asm, STACK.DESTINATION.address)
    asm.jump("==", R1, 0, "ipv4 length unknown")
    asm.sub(R1, IPV4_LENGTH)
    asm.label("ipv4 length unknown")
    _store_tcp_place(asm, network + IPV4_LENGTH)
    asm.label("headers read")


def _store_tcp_place(asm: Assembler, tcp_at: int) -> None:
    """TCP_AT, and TCP_SIZE = R1, or to the packet's end if R1 is 0: BIG TCP is more than 16 bits can say; uses R1."""
    known = asm.unique("length known")
    asm.store(FP, STACK.TCP_AT, tcp_at)
    asm.jump("!=", R1, 0, known)
    asm.load(R1, R6, SKB.LEN)
    asm.sub(R1, tcp_at)
    asm.label(known)
    asm.store(FP, STACK.TCP_SIZE, R1)


def find_in_tcp(asm: Assembler, offset: int) -> None:
    """R2 = the place in the packet that is `offset` bytes behind the start of the TCP header."""
    asm.load(R2, FP, STACK.TCP_AT)
    asm.add(R2, offset)


def load_at_r2(asm: Assembler, to: Field, failed: str) -> None:
    """Read the field on the stack from the packet, at the offset in R2."""
    asm.mov(R1, R6)
    asm.address_of(R3, FP, to)
    asm.mov(R4, to.size)
    asm.call(Helper.SKB_LOAD_BYTES)
    asm.jump("!=", R0, 0, failed)


def if_control_segment(asm: Assembler, label: str) -> None:
    """To `label` if the first TCP option is ours and not CAPABLE."""
    otherwise = asm.unique("no control segment")
    asm.load(R2, FP, STACK.DATA_OFFSET)
    asm.jump("<", R2, 7 << 4, otherwise)  # too short for one
    find_in_tcp(asm, OPTIONS)
    load_at_r2(asm, STACK.OPTION, otherwise)
    asm.load(R2, FP, STACK.OPTION_WORD)
    asm.swap_be(R2, 32)
    asm.and_(R2, 0xFF00FFFF, bits=32)  # without the length
    asm.jump("!=", R2, OPTION_KIND << 24 | OPTION_EXID, otherwise, bits=32)
    asm.load(R2, FP, STACK.OPTION_SUBTYPE)
    asm.rsh(R2, 4)
    asm.jump("!=", R2, SUBTYPE_CAPABLE, label)
    asm.label(otherwise)


def load_sequence_end(asm: Assembler, dst: Reg) -> None:
    """dst = sequence number after the segment, in host order; uses R1, R2."""
    asm.load(R1, FP, STACK.TCP_SIZE)
    asm.load(R2, FP, STACK.DATA_OFFSET)
    asm.rsh(R2, 4)
    asm.lsh(R2, 2)
    asm.sub(R1, R2)
    asm.load(R2, FP, STACK.FLAGS)
    asm.and_(R2, FIN)
    asm.add(R1, R2)
    asm.load(dst, FP, STACK.SEQ)
    asm.swap_be(dst, 32)
    asm.add(dst, R1, bits=32)


def if_other_end(asm: Assembler, base: Reg, end: End, in_packet: End, label: str) -> None:
    """To `label` unless `end` at `base` is this end of the packet's connection; uses R1 and R2."""
    macros.differ(asm, base, end.address, FP, in_packet.address, label)
    macros.differ(asm, base, end.port, FP, in_packet.port, label)


def copy_end(asm: Assembler, base: Reg, end: End) -> None:
    """NEW = `end` at `base`; uses R1."""
    macros.copy(asm, FP, STACK.NEW.address, base, end.address)
    macros.copy(asm, FP, STACK.NEW.port, base, end.port)


def readdress(asm: Assembler, old: End) -> None:
    """Put NEW in the place of this end of the packet's connection. Uses R9."""
    ipv6, addressed, same_port = asm.unique("ipv6"), asm.unique("addressed"), asm.unique("same port")
    in_ipv4, in_ipv6 = _ADDRESS_AT[old]
    new = STACK.NEW
    asm.address_of(R1, FP, old.address)
    asm.mov(R2, old.address.size)
    asm.address_of(R3, FP, new.address)
    asm.mov(R4, new.address.size)
    asm.mov(R5, 0)
    asm.call(Helper.CSUM_DIFF)  # the prefix of IPv4 is in both, and cancels out
    asm.mov(R9, R0)
    asm.load(R2, FP, STACK.TCP_AT)
    asm.jump("==", R2, ETHERNET + IPV6_LENGTH, ipv6)
    asm.mov(R2, _IPV4_CHECKSUM)
    _add_to_checksum(asm, Helper.L3_CSUM_REPLACE, 0)
    asm.mov(R2, in_ipv4)
    write_at_r2(asm, new.address.part(_LAST_WORD))
    asm.goto(addressed)
    asm.label(ipv6)
    asm.mov(R2, in_ipv6)
    write_at_r2(asm, new.address)
    # In IPv6 the change of the address and that of TCP's checksum cancel out in the sum that a network card has made of
    # the packet; L4_CSUM_REPLACE takes the latter only into account, as if there were the checksum of an IPv4 header.
    asm.mov(R1, R6)
    asm.mov(R2, R9)
    asm.call(Helper.CSUM_UPDATE)  # fails if the card has made none
    asm.label(addressed)
    find_in_tcp(asm, _CHECKSUM)
    _add_to_checksum(asm, Helper.L4_CSUM_REPLACE, _PSEUDO_HEADER)
    asm.load(R1, FP, old.port)
    asm.load(R2, FP, new.port)
    asm.jump("==", R1, R2, same_port)
    replace_in_checksum(asm, old.port, new.port)
    find_in_tcp(asm, old.port.offset - STACK.SOURCE.port.offset)
    write_at_r2(asm, new.port)
    asm.label(same_port)


def _add_to_checksum(asm: Assembler, helper: Helper, flags: int) -> None:
    """Correct the checksum at the offset in R2 for the change in R9."""
    asm.mov(R1, R6)
    asm.mov(R3, 0)
    asm.mov(R4, R9)
    asm.mov(R5, flags)
    asm.call(helper)
    asm.jump("!=", R0, 0, "drop")


def replace_in_checksum(asm: Assembler, old: Field, new: Field) -> None:
    """Correct TCP's checksum for the change from `old` to `new`, both on the stack."""
    find_in_tcp(asm, _CHECKSUM)
    asm.mov(R1, R6)
    asm.load(R3, FP, old)
    asm.load(R4, FP, new)
    asm.mov(R5, old.size)
    asm.call(Helper.L4_CSUM_REPLACE)
    asm.jump("!=", R0, 0, "drop")


def write_at_r2(asm: Assembler, source: Field) -> None:
    """Write the field on the stack into the packet, at the offset in R2."""
    asm.mov(R1, R6)
    asm.address_of(R3, FP, source)
    asm.mov(R4, source.size)
    asm.mov(R5, 0)
    asm.call(Helper.SKB_STORE_BYTES)
    asm.jump("!=", R0, 0, "drop")
