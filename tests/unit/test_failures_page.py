"""docs/failures.md says what the tests of faults check."""

from __future__ import annotations

import pytest

from tests.root.faults_cells import CELLS, DEEDS, FAULTS, MESSAGES, PAGE, STEPS, with_tables

pytestmark = pytest.mark.unit


def test_the_page_has_the_tables_of_the_tests() -> None:
    page = PAGE.read_text()
    assert page == with_tables(page), "run python -m tests.root.faults_cells"


def test_every_cell_is_there() -> None:
    assert len(CELLS) == len(MESSAGES) * len(FAULTS) == len({cell.name for cell in CELLS})
    assert all(len(deed.outcomes) == len(STEPS) and set(deed.outcomes) <= set("mbse") for deed in DEEDS)
