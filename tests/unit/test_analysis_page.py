"""docs/analysis.md does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib as mpl
import pytest

from analysis.synthetic_plans import write_plan

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[2] / "docs" / "analysis.md"


def test_ten_lines_make_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mpl.use("agg")
    monkeypatch.chdir(tmp_path)
    plan = write_plan(tmp_path / "x" / "y", {"dos": {"rtt": [20.0]}}, 2, ("mtcp", "tcp"))
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(compile(code, str(PAGE), "exec"), {"RESULTS": plan})
    assert (tmp_path / "mine.png").stat().st_size > 1000
    assert "mtcp" in capsys.readouterr().out
