"""The program on the agent's AF_PACKET socket: control segments of the hosts' connections, no more than it can read.

A token bucket for each source, and one for all of them, since sources can be forged; MIGRATEs, which cost the agent
most and which anybody may send, have buckets of their own. A bucket is one number, so that CPUs can share it: the time
at which it will be full again (the generic cell rate algorithm of ITU-T I.371). R6 is the packet from its IP header on.
"""

from __future__ import annotations

from typing import NamedTuple

from mtcp.linux.bpf import macros, packet
from mtcp.linux.bpf.asm import FP, R0, R1, R2, R3, R5, R7, R8, Assembler, Field, Helper, Reg
from mtcp.linux.bpf.layout import SUBTYPE_MIGRATE

_TRIES = 3  # of a compare-and-exchange
_WHOLE = 0xFFFF  # verdict: so many bytes of the packet, at most
_DROP = 0
_SECOND = 1_000_000_000


class Limit(NamedTuple):
    """A token bucket; empty it fills within four seconds (32 bits of nanoseconds)."""

    rate: int
    """Segments per second."""
    burst: int
    """Segments at once."""


class Class(NamedTuple):
    """Segments that share buckets."""

    name: str
    of_source: Limit
    of_all: Limit


class SOURCE:
    """Key of the map of buckets: an IPv4 address, or a /64 network of IPv6 (whoever has one address has all those)."""

    SIZE = 20
    ADDRESS = Field(0, 16)
    CLASS = Field(16, 4)


class TOTAL:
    """Of a class."""

    SIZE = 32
    BUCKET = Field(0, 8)
    PASSED = Field(8, 8)
    OVER_SOURCE = Field(16, 8)  # dropped: their source had sent too many
    OVER_ALL = Field(24, 8)  # dropped: all sources together had


class _STACK(packet.STACK):
    SENDER = Field(-136, SOURCE.SIZE)
    BUCKET = Field(-144, 8)
    INDEX = Field(-148, 4)


def program(sources: int, totals: int, migrates: Class, others: Class) -> bytes:
    """`sources`: an LRU hash of SOURCE -> u64, `totals`: an array of a TOTAL for each class."""
    asm = Assembler()
    packet.read_headers(asm, network=0)
    packet.if_control_segment(asm, "control segment")
    asm.label("pass")
    asm.label("drop")
    asm.exit(_DROP)

    asm.label("control segment")
    macros.copy(asm, FP, _STACK.SENDER.part(SOURCE.ADDRESS), FP, packet.STACK.SOURCE.address)
    asm.load(R1, FP, packet.STACK.TCP_AT)
    asm.jump("!=", R1, packet.IPV6_LENGTH, "source known")
    asm.store(FP, _STACK.SENDER.part(Field(8, 8)), 0)
    asm.label("source known")
    asm.call(Helper.KTIME_GET_NS)
    asm.mov(R7, R0)
    asm.load(R1, FP, _STACK.OPTION_SUBTYPE)
    asm.rsh(R1, 4)
    asm.jump("==", R1, SUBTYPE_MIGRATE, migrates.name)
    for index, class_ in ((1, others), (0, migrates)):
        asm.label(class_.name)
        _admit(asm, sources, totals, index, class_)
    return asm.assemble()


def _admit(asm: Assembler, sources: int, totals: int, index: int, class_: Class) -> None:
    """R7: the time."""
    new, both, over_source, over_all = (asm.unique(name) for name in ("new", "both", "over source", "over all"))
    asm.store(FP, _STACK.INDEX, index)
    macros.lookup(asm, totals, _STACK.INDEX, "drop")
    asm.mov(R8, R0)
    asm.store(FP, _STACK.SENDER.part(SOURCE.CLASS), index)
    macros.lookup(asm, sources, _STACK.SENDER, new)
    asm.mov(R3, R0)
    _take(asm, R3, Field(0, 8), class_.of_source, over_source)
    asm.goto(both)
    asm.label(new)
    asm.mov(R1, R7)
    asm.add(R1, _SECOND // class_.of_source.rate)
    asm.store(FP, _STACK.BUCKET, R1)
    macros.update(asm, sources, _STACK.SENDER, _STACK.BUCKET, "drop")
    asm.label(both)
    _take(asm, R8, TOTAL.BUCKET, class_.of_all, over_all)
    for label, counter, verdict in (
        (None, TOTAL.PASSED, _WHOLE),
        (over_source, TOTAL.OVER_SOURCE, _DROP),
        (over_all, TOTAL.OVER_ALL, _DROP),
    ):
        if label is not None:
            asm.label(label)
        asm.mov(R1, 1)
        asm.atomic_add(R8, counter, R1)
        asm.exit(verdict)


def _take(asm: Assembler, base: Reg, bucket: Field, limit: Limit, empty: str) -> None:
    """One token of the bucket, or to `empty`; uses R0-R2, R5. Whoever loses all races finds it empty."""
    interval = _SECOND // limit.rate
    done = asm.unique("taken")
    for _ in range(_TRIES):
        later = asm.unique("later")
        asm.load(R0, base, bucket)
        asm.mov(R1, R0)
        asm.jump(">=", R1, R7, later)
        asm.mov(R1, R7)
        asm.label(later)
        asm.mov(R2, R1)
        asm.sub(R2, R7)
        asm.mov(R5, (limit.burst - 1) * interval, bits=32)
        asm.jump(">", R2, R5, empty)
        asm.add(R1, interval)
        asm.mov(R2, R0)
        asm.compare_exchange(base, bucket, R1)
        asm.jump("==", R0, R2, done)
    asm.goto(empty)
    asm.label(done)
