"""docs/wire.md says what the code does, and the example compiles without a warning."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import pytest

from mtcp import capsule
from mtcp.agent import local
from mtcp.capsule import Capsule
from tests.examples import EXAMPLES, compile_counter
from tests.services.broken import FIELDS

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
ROW = re.compile(r"^\| (?P<offsets>\d+(?:, \d+)*) \| (?P<size>\d+) \| `(?P<name>\w+)` \|", re.MULTILINE)
DOCUMENTED = {
    row["name"]: [(int(offset), int(row["size"])) for offset in row["offsets"].split(", ")]
    for row in ROW.finditer(PAGE)
}


def test_fields_lie_where_the_page_says() -> None:
    fields = {
        name.lstrip("_"): [(field._offset, field._layout.size)]
        for name, field in vars(Capsule).items()
        if isinstance(field, capsule._Field)
    }
    assert len(fields) >= 12
    assert {name: DOCUMENTED.get(name) for name in fields} == fields
    others = {name: [(offset, struct.calcsize(code)) for offset, code in places] for name, places in FIELDS.items()}
    assert {name: DOCUMENTED.get(name) for name in others} == others


def test_slots_states_and_log_lie_where_the_page_says() -> None:
    made = Capsule.create(log_size=16, state_max=8)
    try:
        made.put_snapshot(capsule.Snapshot(b"state", 3, 5, ended=True, held=True))
        made.log_space(4)[:] = b"read"
        values = [int.from_bytes(made.memory[at[1][0] : sum(at[1])], sys.byteorder) for at in _slot_fields()]
        assert values == [5, 3, 3, 5]
        assert made.memory[4096 + 8 : 4096 + 13] == b"state"
        assert made.memory[4096 + 2 * 8 :][:4] == b"read"
        assert len(made.memory) == 4096 + 2 * 8 + 16
    finally:
        made.close()


def _slot_fields() -> list[list[tuple[int, int]]]:
    return [DOCUMENTED[f"slot_{name}"] for name in ("length", "bits", "rcv_offset", "snd_offset")]


def test_the_address_is_the_pages() -> None:
    assert local.ADDRESS == "\0mtcp-agent"
    assert r"`\0mtcp-agent`" in PAGE


@pytest.mark.parametrize("flags", [["-O0"], ["-O3"], ["-O1", "-fsanitize=address,undefined"]])
def test_the_example_compiles_without_a_warning(tmp_path: Path, flags: list[str]) -> None:
    assert compile_counter(tmp_path / "counter", *flags).exists()
    assert "#include <mtcp" not in (EXAMPLES / "counter.c").read_text()
