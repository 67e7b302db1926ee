"""Instruction sequences that several programs use. In all of them R7 is the connection's entry."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from mtcp.linux.bpf.asm import FP, R0, R1, R2, R3, R4, R7, Assembler, Field, Helper, Reg
from mtcp.linux.bpf.layout import ENTRY, EVENT, MAPPED_PREFIX, SLOT_BIT, EventKind, Maps

_MAPPED = int.from_bytes(MAPPED_PREFIX[8:], sys.byteorder)
_TRIES = 3  # of a compare-and-exchange; whoever loses them all leaves the number to the CPUs that won


def lookup(asm: Assembler, fd: int, key: Field, missing: str) -> None:
    """R0 = pointer to the value of the map under the key on the stack; to `missing` if there is none."""
    asm.load_map(R1, fd)
    asm.address_of(R2, FP, key)
    asm.call(Helper.MAP_LOOKUP)
    asm.jump("==", R0, 0, missing)


def update(asm: Assembler, fd: int, key: Field, value: Field, failed: str) -> None:
    """Put key and value, both on the stack, into a hash."""
    asm.load_map(R1, fd)
    asm.address_of(R2, FP, key)
    asm.address_of(R3, FP, value)
    asm.mov(R4, 0)
    asm.call(Helper.MAP_UPDATE)
    asm.jump("!=", R0, 0, failed)


def delete(asm: Assembler, fd: int, key: Field) -> None:
    """Remove the key on the stack from a hash, if it is there."""
    asm.load_map(R1, fd)
    asm.address_of(R2, FP, key)
    asm.call(Helper.MAP_DELETE)


def find_entry(asm: Assembler, maps: Maps, table: int, key: Field, index: Field, missing: str) -> None:
    """R7 = entry of the connection under the key on the stack; its index goes to the stack."""
    lookup(asm, table, key, missing)
    asm.load(R1, R0, Field(0, 4))
    asm.store(FP, index, R1)
    lookup(asm, maps.entries, index, missing)
    asm.mov(R7, R0)


def slot(asm: Assembler, dst: Reg, word: Reg, current: bool) -> None:
    """dst + ENTRY.SERVERS is the current server's slot, or the other one, by this state word."""
    asm.mov(dst, word)
    if not current:
        asm.xor(dst, SLOT_BIT)
    asm.and_(dst, SLOT_BIT)
    asm.add(dst, R7)


def server(field: Field) -> Field:
    """A field of SERVER relative to what `slot` leaves."""
    return ENTRY.SERVERS.part(field)


def _pieces(field: Field) -> Iterator[Field]:
    """The field in as few numbers as there can be."""
    offset, end = field.offset, field.offset + field.size
    while offset < end:
        size = next(size for size in (8, 4, 2, 1) if size <= end - offset)
        yield Field(offset, size)
        offset += size


def copy(asm: Assembler, to_base: Reg, to: Field, base: Reg, field: Field) -> None:
    """`to` = `field`, which is of the same size; uses R1."""
    for target, source in zip(_pieces(to), _pieces(field), strict=True):
        asm.load(R1, base, source)
        asm.store(to_base, target, R1)


def differ(asm: Assembler, base: Reg, field: Field, other_base: Reg, other: Field, label: str) -> None:
    """To `label` unless the fields, of the same size, are equal; uses R1 and R2."""
    for one, two in zip(_pieces(field), _pieces(other), strict=True):
        asm.load(R1, base, one)
        asm.load(R2, other_base, two)
        asm.jump("!=", R1, R2, label)


def store_mapped_prefix(asm: Assembler, address: Field) -> None:
    """The first 12 of the 16 bytes of an IPv4 address on the stack."""
    asm.store(FP, Field(address.offset, 8), 0)
    asm.store(FP, Field(address.offset + 8, 4), _MAPPED)


def count(asm: Assembler, counter: Field) -> None:
    """Counter of the entry + 1; uses R1."""
    asm.mov(R1, 1)
    asm.atomic_add(R7, counter, R1)


def store_latest(asm: Assembler, base: Reg, field: Field, value: Reg) -> None:
    """The u32 field = the later of field and `value` in sequence space, whatever other CPUs do; uses R0-R2."""
    done = asm.unique("latest")
    for _ in range(_TRIES):
        asm.load(R0, base, field)
        asm.mov(R1, value, bits=32)
        asm.sub(R1, R0, bits=32)
        asm.jump("s<=", R1, 0, done, bits=32)
        asm.mov(R2, R0)
        asm.mov(R1, value, bits=32)
        asm.compare_exchange(base, field, R1)
        asm.jump("==", R0, R2, done)
    asm.label(done)


def emit_event(asm: Assembler, maps: Maps, kind: EventKind, index: Field, scratch: Field) -> None:
    """Tell the agent; `scratch` is room for an EVENT on the stack. Lost when the ring buffer is full."""
    asm.call(Helper.KTIME_GET_NS)
    asm.store(FP, scratch.part(EVENT.TIME), R0)
    asm.store(FP, scratch.part(EVENT.KIND), kind)
    asm.load(R1, FP, index)
    asm.store(FP, scratch.part(EVENT.INDEX), R1)
    asm.load_map(R1, maps.events)
    asm.address_of(R2, FP, scratch)
    asm.mov(R3, EVENT.SIZE)
    asm.mov(R4, 0)
    asm.call(Helper.RINGBUF_OUTPUT)
