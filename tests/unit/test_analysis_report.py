"""The report says what the captures say, in one file that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from analysis import figures, load, palette, report
from analysis.__main__ import main
from analysis.synthetic import Download, many_moves
from analysis.verdict import examine

pytestmark = pytest.mark.unit


def test_report_is_one_file(tmp_path: Path) -> None:
    written = report.write(many_moves(12).write(tmp_path, {"git_revision": "abc123", "versions": {"kernel": "6.1"}}))
    assert written.path == tmp_path / "report.html"
    assert written.figures["verdict"] == "succeeded"
    page = written.path.read_text()
    assert "12 / 12" in page
    assert "abc123" in page and "6.1" in page
    assert not re.search(r"(src|srcset|href)=\"(https?:|//)", page)
    links = set(re.findall(r'href="([^":]+)"', page))
    assert {"client.pcap", "s1.pcap", "s2.pcap", "samples.csv"} <= links
    assert all((tmp_path / link).exists() for link in links)
    for name in ("goodput.png", "goodput.svg", "phases.png", "phases.svg"):
        assert (tmp_path / name).stat().st_size > 1000


def test_samples_are_tidy(tmp_path: Path) -> None:
    report.write(many_moves(2).write(tmp_path / "run-7"))
    table = load(tmp_path)
    assert set(table["run_id"]) == {"run-7"} and set(table["verdict"]) == {"succeeded"}
    assert len(pd.read_csv(tmp_path / "run-7" / "samples.csv")) == len(table)
    goodput = table[table["metric"] == "goodput_mbps"]
    assert goodput["value"].sum() * 0.02 * 1e6 / 8 == pytest.approx(30_000)  # bins of 20 ms
    first = table[table["metric"] == "first_byte_ms"]
    assert first["value"].tolist() == pytest.approx([0.8, 0.8], abs=1e-4)
    assert first["server"].tolist() == ["s2", "s1"]
    assert table.loc[table["metric"] == "phase.dump_state_ms", "value"].tolist() == [0.2, 0.2]


def test_summary_has_stable_keys(tmp_path: Path) -> None:
    """Also where there is nothing to say: then their values are null."""
    report.write(many_moves(2).write(tmp_path))
    found = json.loads((tmp_path / "summary.json").read_text())
    assert set(found) == {
        "verdict", "reason", "migrations", "migrations_asked", "hash_ok", "client_errors", "resets", "handshakes",
        "other_connections", "max_gap_ms", "first_byte_ms_median", "migration_ms_median", "stall_ms_median",
        "phases_ms_median", "goodput_mbps", "goodput_ratio", "interrupted_calls", "duration_s", "duplicate_bytes",
        "payload_bytes_s1", "payload_bytes_s2",
    }  # fmt: skip
    (tmp_path / "client.pcap").unlink()
    report.write(tmp_path)
    assert set(json.loads((tmp_path / "summary.json").read_text())) == set(found)


def test_a_run_without_evidence_gets_a_report(tmp_path: Path) -> None:
    many_moves(1).write(tmp_path, {"scenario": "<script>alert(1)</script>"})
    (tmp_path / "client.pcap").unlink()
    written = report.write(tmp_path)
    page = written.path.read_text()
    assert "the capture client.pcap is missing" in page
    assert "<script" not in page.lower()
    assert not (tmp_path / "goodput.png").exists()


@pytest.mark.parametrize("moves", [0, 1, 20])
def test_any_number_of_moves_can_be_drawn(tmp_path: Path, moves: int) -> None:
    found = examine(many_moves(moves).write(tmp_path))
    assert found.trace is not None and len(found.trace.moves) == moves
    for shape in palette.SHAPES:
        assert palette.image(figures.goodput(found.trace, found.run.servers, shape=shape), "svg")
        assert palette.image(figures.phases(found.moves, palette.DARK, shape), "svg")


def test_the_same_run_gives_the_same_picture(tmp_path: Path) -> None:
    moves = examine(many_moves(3).write(tmp_path)).moves
    one, two = (palette.image(figures.phases(moves), "svg") for _ in range(2))
    assert one == two


def test_empty_captures_get_a_report(tmp_path: Path) -> None:
    assert report.write(Download().write(tmp_path)).figures["verdict"] == "failed"


def test_a_server_keeps_its_colour() -> None:
    assert palette.server_colours(["s1", "s2"])["s1"] == palette.server_colours(["s1"])["s1"]
    assert len(set(palette.server_colours(["s1", "s2", "s3", "s4"]).values())) == 4


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(many_moves(1).write(tmp_path))]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report.html")
    assert main(["report", str(tmp_path / "absent")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("analysis: ") and error.count("\n") == 1
