"""What the benchmark of the analysis measures is a run that is judged, and what it says is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import benchmark, verdict
from analysis.benchmark import MEMORY, RATE
from analysis.synthetic_bulk import PACKETS, SIZE, write_bulk

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[2] / "docs" / "analysis.md"


def test_a_large_run_is_one_download_that_moves_on_and_on(tmp_path: Path) -> None:
    size, packets = write_bulk(tmp_path, 8e6)
    assert size == sum(file.stat().st_size for file in tmp_path.glob("*.pcap")) >= 8e6
    found = verdict.examine(tmp_path)
    assert found.verdict.verdict == "succeeded", found.verdict.reason
    stretches = len(found.moves) // 2
    assert found.trace is not None and len(found.trace.moves) == 2 * stretches > 2
    assert found.trace.delivered == (stretches * 2 * PACKETS + 1) * SIZE
    assert packets > stretches * 4 * PACKETS
    assert found.moves["first_byte_ms"].tolist() == pytest.approx([0.02] * len(found.moves))


def test_the_table_says_which_bars_are_missed() -> None:
    made, met = benchmark.table({RATE: [60.0, 70.0, 65.0], MEMORY: [900.0]})
    assert met
    assert "| captures [MB/s] | 65 | 60 … 70 | at least 50 |" in made and "| 900 |  | at most 2000 |" in made
    made, met = benchmark.table({RATE: [40.0]})
    assert not met and "at least 50: missed" in made


def test_the_page_has_a_place_for_the_table() -> None:
    assert all(PAGE.read_text().count(marker) == 1 for marker in (benchmark.BEGIN, benchmark.END))
