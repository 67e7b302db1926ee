"""The program for what routers say: a packet to the current server was too big for its path (RFC 1191, RFC 8201).

Such a message quotes the packet as it was on the wire, with the current server's address, of which the client's kernel
knows no connection; so it would go on sending packets of that size, and none would arrive. This puts the original
server into the quotation. The kernel checks the quoted sequence number, as ever, and keeps the size for the original
server's route. R6 is the packet, R7 the entry.
"""

from __future__ import annotations

from typing import NamedTuple

from mtcp.linux.bpf import macros, packet
from mtcp.linux.bpf.asm import FP, R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, Assembler, Field, Helper
from mtcp.linux.bpf.layout import ENTRY, TUPLE, EntryFlag, Maps
from mtcp.linux.bpf.packet import ETHERNET, IPV4_LENGTH, IPV6_LENGTH, SKB

_ICMP_LENGTH = 8


class _Family(NamedTuple):
    """Where things are in the message, and in the packet of the same family that it quotes."""

    name: str
    ip_length: int
    protocol: Field
    icmp: int  # its number
    too_big: int  # type and code
    source: int  # in the IP header; the destination follows
    address: Field  # which part of 16 bytes is in the packet

    @property
    def icmp_at(self) -> int:
        return ETHERNET + self.ip_length

    @property
    def quoted_at(self) -> int:
        return self.icmp_at + _ICMP_LENGTH

    @property
    def server_at(self) -> int:
        return self.quoted_at + self.source + self.address.size

    @property
    def ports_at(self) -> int:
        return self.quoted_at + self.ip_length

    @property
    def checksum_at(self) -> int:
        return self.icmp_at + 2


_IPV4 = _Family("ipv4", IPV4_LENGTH, Field(9, 1), 1, 0x0304, 12, Field(12, 4))
_IPV6 = _Family("ipv6", IPV6_LENGTH, Field(6, 1), 58, 0x0200, 8, Field(0, 16))
_IPV4_VERSION_IHL, _IPV4_CHECKSUM = Field(0, 1), 10


class _STACK:
    CONNECTION = Field(-40, TUPLE.SIZE)  # key of map `ingress`: the server first
    SERVER = packet.End(CONNECTION.part(TUPLE.SOURCE_IP), CONNECTION.part(TUPLE.SOURCE_PORT))
    INDEX = Field(-44, 4)
    BYTES = Field(-48, 4)


def program(maps: Maps) -> bytes:
    asm = Assembler()
    asm.mov(R6, R1)
    asm.load(R2, R6, SKB.PROTOCOL)
    asm.jump("==", R2, packet.ETH_P_IP, _IPV4.name)
    asm.jump("==", R2, packet.ETH_P_IPV6, _IPV6.name)
    asm.label("pass")
    asm.exit(packet.NEXT)
    asm.label("drop")
    asm.exit(packet.DROP)
    for family in (_IPV4, _IPV6):
        asm.label(family.name)
        _find_entry(asm, maps, family)
        _requote(asm, family)
        asm.exit(packet.NEXT)
    return asm.assemble()


def _find_entry(asm: Assembler, maps: Maps, family: _Family) -> None:
    """To "pass" unless a packet of a moved connection to its current server was too big."""
    _only_if(asm, ETHERNET, family.protocol, family.icmp)
    _only_if(asm, family.icmp_at, Field(0, 2), family.too_big)
    if family is _IPV4:
        macros.store_mapped_prefix(asm, _STACK.CONNECTION.part(TUPLE.SOURCE_IP))
        macros.store_mapped_prefix(asm, _STACK.CONNECTION.part(TUPLE.DESTINATION_IP))
        _only_if(asm, ETHERNET, _IPV4_VERSION_IHL, 0x45)
        _only_if(asm, family.quoted_at, _IPV4_VERSION_IHL, 0x45)
    _only_if(asm, family.quoted_at, family.protocol, packet.TCP)
    for at, part, field in (
        (family.server_at, TUPLE.SOURCE_IP, family.address),
        (family.server_at - family.address.size, TUPLE.DESTINATION_IP, family.address),
        (family.ports_at + 2, TUPLE.SOURCE_PORT, Field(0, 2)),
        (family.ports_at, TUPLE.DESTINATION_PORT, Field(0, 2)),
    ):
        asm.mov(R2, at)
        packet.load_at_r2(asm, _STACK.CONNECTION.part(part).part(field), "pass")
    macros.find_entry(asm, maps, maps.ingress, _STACK.CONNECTION, _STACK.INDEX, "pass")
    asm.load(R1, R7, ENTRY.FLAGS)
    asm.jump("&", R1, EntryFlag.STALE, "pass")
    asm.load(R8, R7, ENTRY.WORD)
    macros.slot(asm, R9, R8, current=True)
    packet.if_other_end(asm, R9, packet.CURRENT, _STACK.SERVER, "pass")


def _requote(asm: Assembler, family: _Family) -> None:
    """The original server in the place of the current one. Uses R9."""
    new = packet.STACK.NEW
    packet.copy_end(asm, R7, packet.ORIGINAL)
    asm.address_of(R1, FP, _STACK.SERVER.address)
    asm.mov(R2, _STACK.SERVER.address.size)
    asm.address_of(R3, FP, new.address)
    asm.mov(R4, new.address.size)
    asm.mov(R5, 0)
    asm.call(Helper.CSUM_DIFF)
    asm.mov(R9, R0)
    # IPv4: with the checksum of the quoted header corrected, the sum of the quotation stays the same.
    asm.mov(R2, family.quoted_at + _IPV4_CHECKSUM if family is _IPV4 else family.checksum_at)
    asm.mov(R1, R6)
    asm.mov(R3, 0)
    asm.mov(R4, R9)
    asm.mov(R5, 0)
    asm.call(Helper.L3_CSUM_REPLACE)
    asm.jump("!=", R0, 0, "drop")
    asm.mov(R2, family.server_at)
    packet.write_at_r2(asm, new.address.part(family.address))
    asm.mov(R1, R6)
    asm.mov(R2, family.checksum_at)
    asm.load(R3, FP, _STACK.SERVER.port)
    asm.load(R4, FP, new.port)
    asm.mov(R5, new.port.size)
    asm.call(Helper.L3_CSUM_REPLACE)
    asm.jump("!=", R0, 0, "drop")
    asm.mov(R2, family.ports_at + 2)
    packet.write_at_r2(asm, new.port)


def _only_if(asm: Assembler, at: int, field: Field, value: int) -> None:
    """To "pass" unless the number in the header that begins at `at` has this value."""
    number = Field(_STACK.BYTES.offset, field.size)
    asm.mov(R2, at + field.offset)
    packet.load_at_r2(asm, number, "pass")
    asm.load(R1, FP, number)
    if field.size > 1:
        asm.swap_be(R1, 8 * field.size)
    asm.jump("!=", R1, value, "pass")
