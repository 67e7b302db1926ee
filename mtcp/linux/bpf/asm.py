"""An assembler for eBPF: names in, bytecode out; so that M-TCP needs no compiler.

Instruction formats: RFC 9669. A program is written top to bottom with labels; jumps are resolved by `assemble`.
Operands that may be a register or a number take either: a `Reg` is a register, a plain int is a number.
"""

from __future__ import annotations

import struct
import sys
from enum import IntEnum
from typing import NamedTuple


class Reg(IntEnum):
    """R0: results; R1-R5: arguments, lost at each call; R6-R9: kept over calls; R10: frame pointer."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Reg
FP = R10


class Helper(IntEnum):
    """Kernel functions that programs call; the numbers are ABI (enum bpf_func_id in linux/bpf.h)."""

    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    KTIME_GET_NS = 5
    GET_PRANDOM_U32 = 7
    SKB_STORE_BYTES = 9
    L3_CSUM_REPLACE = 10
    L4_CSUM_REPLACE = 11
    REDIRECT = 23
    SKB_LOAD_BYTES = 26
    CSUM_DIFF = 28
    CSUM_UPDATE = 40
    GET_SOCKET_COOKIE = 46
    SETSOCKOPT = 49
    SOCK_OPS_CB_FLAGS_SET = 59
    MAP_PUSH = 87
    MAP_POP = 88
    RINGBUF_OUTPUT = 130
    LOAD_HDR_OPT = 142
    STORE_HDR_OPT = 143
    RESERVE_HDR_OPT = 144
    REDIRECT_NEIGH = 152


class Field(NamedTuple):
    """A place in memory relative to some base register: offset and size in bytes."""

    offset: int
    size: int

    def part(self, field: Field) -> Field:
        """A field of the struct that lies here."""
        return Field(self.offset + field.offset, field.size)


class AsmError(ValueError):
    """The program is not well formed; the message names the label or operand."""


_SIZE_BITS = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_ALU = {"add": 0x00, "sub": 0x10, "or": 0x40, "and": 0x50, "lsh": 0x60, "rsh": 0x70, "xor": 0xA0, "mov": 0xB0}
_JUMP = {
    "==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50, "s>": 0x60, "s>=": 0x70,
    "<": 0xA0, "<=": 0xB0, "s<": 0xC0, "s<=": 0xD0,
}  # fmt: skip
_FROM_REGISTER = 0x08
_ATOMIC_ADD, _ATOMIC_OR, _FETCH, _XCHG, _CMPXCHG = 0x00, 0x40, 0x01, 0xE1, 0xF1
_PSEUDO_MAP_FD = 1


class Assembler:
    """Collects instructions. Every method adds what its name says, except `assemble`."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int]] = []  # opcode, dst, src, offset, immediate
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []
        self._unique = 0

    def assemble(self) -> bytes:
        """The bytecode. AsmError when a jump's label does not exist or is too far away."""
        code = list(self._code)
        for at, name in self._jumps:
            if name not in self._labels:
                raise AsmError(f"jump to unknown label {name!r}")
            distance = self._labels[name] - at - 1
            if not -0x8000 <= distance <= 0x7FFF:
                raise AsmError(f"label {name!r} is {distance} instructions away")
            opcode, dst, src, _, immediate = code[at]
            code[at] = (opcode, dst, src, distance, immediate)
        return b"".join(struct.pack("=BBhi", op, _registers(dst, src), off, imm) for op, dst, src, off, imm in code)

    # -- control flow --

    def label(self, name: str) -> None:
        """Mark this place as the target of jumps. AsmError if the name is taken."""
        if name in self._labels:
            raise AsmError(f"label {name!r} defined twice")
        self._labels[name] = len(self._code)

    def unique(self, stem: str) -> str:
        """A label name that nobody else uses, for macros."""
        self._unique += 1
        return f"{stem}#{self._unique}"

    def goto(self, label: str) -> None:
        self._jumps.append((len(self._code), label))
        self._emit(0x05)

    def jump(self, condition: str, left: Reg, right: Reg | int, label: str, bits: int = 64) -> None:
        """Go to `label` if `left condition right`; "&" means: any common bit; "s<" and the like are signed."""
        if condition not in _JUMP:
            raise AsmError(f"unknown condition {condition!r}")
        self._jumps.append((len(self._code), label))
        self._operation(_JUMP[condition] | {64: 0x05, 32: 0x06}[bits], left, right, bits)

    def call(self, helper: Helper) -> None:
        """Call a kernel function; result in R0, R1-R5 are lost."""
        self._emit(0x85, immediate=helper)

    def exit(self, value: int | None = None) -> None:
        """Return R0, or `value`."""
        if value is not None:
            self.mov(R0, value, bits=32)
        self._emit(0x95)

    # -- registers --

    def mov(self, dst: Reg, src: Reg | int, bits: int = 64) -> None:
        self._alu("mov", dst, src, bits)

    def add(self, dst: Reg, src: Reg | int, bits: int = 64) -> None:
        self._alu("add", dst, src, bits)

    def sub(self, dst: Reg, src: Reg | int, bits: int = 64) -> None:
        self._alu("sub", dst, src, bits)

    def and_(self, dst: Reg, src: Reg | int, bits: int = 64) -> None:
        self._alu("and", dst, src, bits)

    def or_(self, dst: Reg, src: Reg | int, bits: int = 64) -> None:
        self._alu("or", dst, src, bits)

    def xor(self, dst: Reg, src: Reg | int, bits: int = 64) -> None:
        self._alu("xor", dst, src, bits)

    def lsh(self, dst: Reg, src: Reg | int, bits: int = 64) -> None:
        self._alu("lsh", dst, src, bits)

    def rsh(self, dst: Reg, src: Reg | int, bits: int = 64) -> None:
        self._alu("rsh", dst, src, bits)

    def swap_be(self, dst: Reg, bits: int) -> None:
        """Convert the low `bits` (16, 32, 64) between host and network order and clear the rest."""
        self._emit(0xDC, dst, immediate=bits)

    def address_of(self, dst: Reg, base: Reg, field: Field) -> None:
        """dst = base + the field's offset."""
        self.mov(dst, base)
        self.add(dst, field.offset)

    def load_map(self, dst: Reg, fd: int) -> None:
        """dst = the map whose file descriptor is `fd`, for helper calls."""
        self._emit(0x18, dst, _PSEUDO_MAP_FD, immediate=fd)
        self._emit(0x00)

    # -- memory --

    def load(self, dst: Reg, base: Reg, field: Field) -> None:
        """dst = the field, zero-extended."""
        self._emit(0x61 | _SIZE_BITS[field.size], dst, base, field.offset)

    def store(self, base: Reg, field: Field, value: Reg | int) -> None:
        """The field = value; a number wider than the field or than 32 bits (sign-extended) is an AsmError."""
        bits = _SIZE_BITS[field.size]
        if isinstance(value, Reg):
            self._emit(0x63 | bits, base, value, field.offset)
        else:
            self._emit(0x62 | bits, base, 0, field.offset, _immediate(value, 32 if field.size <= 4 else 64))

    def atomic_add(self, base: Reg, field: Field, value: Reg) -> None:
        self._atomic(_ATOMIC_ADD, base, field, value)

    def atomic_fetch_or(self, base: Reg, field: Field, value: Reg) -> None:
        """field |= value; `value` becomes what the field was."""
        self._atomic(_ATOMIC_OR | _FETCH, base, field, value)

    def exchange(self, base: Reg, field: Field, value: Reg) -> None:
        """Swap field and `value` atomically."""
        self._atomic(_XCHG, base, field, value)

    def compare_exchange(self, base: Reg, field: Field, new: Reg) -> None:
        """If the field equals R0 it becomes `new`; R0 becomes what the field was. A full memory barrier."""
        self._atomic(_CMPXCHG, base, field, new)

    # -- encoding --

    def _emit(self, opcode: int, dst: int = 0, src: int = 0, offset: int = 0, immediate: int = 0) -> None:
        self._code.append((opcode, dst, src, offset, immediate))

    def _alu(self, name: str, dst: Reg, src: Reg | int, bits: int) -> None:
        self._operation(_ALU[name] | {64: 0x07, 32: 0x04}[bits], dst, src, bits)

    def _operation(self, opcode: int, dst: Reg, src: Reg | int, bits: int) -> None:
        if isinstance(src, Reg):
            self._emit(opcode | _FROM_REGISTER, dst, src)
        else:
            self._emit(opcode, dst, immediate=_immediate(src, bits))

    def _atomic(self, operation: int, base: Reg, field: Field, value: Reg) -> None:
        if field.size not in (4, 8):
            raise AsmError(f"atomic operation on {field.size} bytes")
        self._emit(0xC3 | _SIZE_BITS[field.size], base, value, field.offset, operation)


def _immediate(value: int, bits: int) -> int:
    """As a signed 32-bit number; beyond 2^31 only where no sign extension can change it (32-bit operations)."""
    if bits == 32 and 0x80000000 <= value <= 0xFFFFFFFF:
        return value - (1 << 32)
    if not -0x80000000 <= value <= 0x7FFFFFFF:
        raise AsmError(f"immediate {value:#x} does not fit")
    return value


def _registers(dst: int, src: int) -> int:
    """The register byte; its halves are swapped on big-endian machines, as in struct bpf_insn."""
    return dst | src << 4 if sys.byteorder == "little" else dst << 4 | src
