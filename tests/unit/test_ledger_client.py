"""What the ledger's client finds wrong: each of its faults can be found."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.clients.ledger import faults


def books(*said: str, broken: list[str] | None = None) -> dict[str, Any]:
    return {"sessions": [{"session": 0, "mode": "simple", "said": list(said)}], "broken": broken or []}


def test_all_well() -> None:
    assert faults(books("", "40001", ""), [(0, 0, 1, 5), (0, 2, 1, -2)], {1: 3, 2: 0}) == []
    for lines in ([], [(0, 0, 1, 5)]):
        assert faults(books("08007"), lines, {1: sum(line[3] for line in lines)}) == []


@pytest.mark.parametrize(
    ("said", "lines", "balances", "what"),
    [
        (books(""), [], {}, "number 0 (acknowledged) took place 0 times"),
        (books(""), [(0, 0, 1, 5), (0, 0, 1, 5)], {1: 10}, "took place 2 times"),
        (books("40001"), [(0, 0, 1, 5)], {1: 5}, "number 0 (40001) took place 1 times"),
        (books("", ""), [(0, 1, 1, 5), (0, 0, 1, 5)], {1: 10}, "not in the order"),
        (books(""), [(0, 0, 1, 5), (0, 1, 1, 5)], {1: 10}, "number 1 was never asked for"),
        (books(""), [(0, 0, 1, 5)], {1: 4}, "account 1 has 4, its lines come to 5"),
        (books(broken=["it broke"]), [], {}, "it broke"),
    ],
)
def test_faults(
    said: dict[str, Any], lines: list[tuple[int, int, int, int]], balances: dict[int, int], what: str
) -> None:
    (found,) = faults(said, lines, balances)
    assert what in found
