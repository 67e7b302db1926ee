"""The assembler's encoding, and the layouts that Python and BPF share."""

from __future__ import annotations

import struct

import pytest

from mtcp.address import Endpoint, FourTuple
from mtcp.linux.bpf import layout
from mtcp.linux.bpf.asm import R0, R1, R2, AsmError, Assembler, Field, Helper

pytestmark = pytest.mark.unit


def decode(code: bytes) -> list[tuple[int, int, int, int]]:
    """Opcode, registers, offset, immediate of each instruction."""
    return list(struct.iter_unpack("=BBhi", code))


def test_instructions_have_the_encoding_of_rfc_9669() -> None:
    asm = Assembler()
    asm.mov(R1, 5)
    asm.mov(R2, R1, bits=32)
    asm.load(R0, R1, Field(8, 2))
    asm.store(R1, Field(-4, 4), 0xFD044D54)
    asm.compare_exchange(R1, Field(16, 4), R2)
    asm.call(Helper.KTIME_GET_NS)
    asm.exit(-1)
    code = decode(asm.assemble())
    assert [opcode for opcode, *_ in code] == [0xB7, 0xBC, 0x69, 0x62, 0xC3, 0x85, 0xB4, 0x95]
    assert code[3][3] & 0xFFFFFFFF == 0xFD044D54
    assert code[4][2:] == (16, 0xF1) and code[5][3] == 5 and code[6][3] == -1


def test_jumps_go_to_their_labels_both_ways() -> None:
    asm = Assembler()
    asm.label("again")
    asm.jump("==", R1, R2, "end")
    asm.load_map(R1, 7)
    asm.goto("again")
    asm.label("end")
    asm.exit()
    code = decode(asm.assemble())
    assert code[0][2] == 3 and code[3][2] == -4
    assert len(code) == 5  # loading a map takes two


def test_mistakes_are_errors() -> None:
    asm = Assembler()
    asm.goto("nowhere")
    with pytest.raises(AsmError, match="unknown label 'nowhere'"):
        asm.assemble()
    asm.label("here")
    with pytest.raises(AsmError, match="defined twice"):
        asm.label("here")
    with pytest.raises(AsmError, match="does not fit"):
        asm.mov(R1, 0x80000000)  # 64 bits: sign extension would change it
    with pytest.raises(AsmError, match="unknown condition"):
        asm.jump("=", R1, 0, "here")
    with pytest.raises(AsmError, match="atomic operation on 2 bytes"):
        asm.exchange(R1, Field(0, 2), R2)


def test_fields_of_each_struct_lie_apart_and_aligned() -> None:
    for struct_class in (layout.ENTRY, layout.SERVER, layout.EVENT, layout.ACCEPTED, layout.COMMAND, layout.TUPLE):
        fields = sorted(field for field in vars(struct_class).values() if isinstance(field, Field))
        ends = [field.offset + field.size for field in fields]
        assert all(end <= field.offset for end, field in zip(ends, fields[1:], strict=False))
        assert ends[-1] <= struct_class.SIZE
        assert all(field.offset % min(field.size, 8) == 0 for field in fields)
    assert layout.SLOT_BIT == layout.SERVER.SIZE


def test_commit_and_abort_exchange_the_same_word() -> None:
    migrating = 7 << layout.ATTEMPT_SHIFT | layout.SLOT_BIT | layout.EntryState.MIGRATING
    assert migrating ^ layout.COMMIT_XOR == 7 << layout.ATTEMPT_SHIFT | layout.EntryState.TRACKED
    assert migrating ^ layout.ABORT_XOR == migrating - layout.EntryState.MIGRATING + layout.EntryState.TRACKED


@pytest.mark.parametrize(
    ("one", "other", "key"),
    [
        ("192.0.2.1", "10.0.0.2", "00000000000000000000ffff c0000201 00000000000000000000ffff 0a000002 01bb 0102"),
        ("2001:db8::1", "::2", "20010db8000000000000000000000001 00000000000000000000000000000002 01bb 0102"),
    ],
)
def test_connections_and_keys(one: str, other: str, key: str) -> None:
    connection = FourTuple(Endpoint(one, 443), Endpoint(other, 258))
    assert layout.tuple_key(connection) == bytes.fromhex(key)
    assert layout.tuple_of(bytes.fromhex(key)) == connection
    assert len(bytes.fromhex(key)) == layout.TUPLE.SIZE
