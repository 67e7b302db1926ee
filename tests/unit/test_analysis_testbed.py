"""The table of the testbed's benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import testbed
from analysis.run import RunError

Rows = list[tuple[str, str, str, float]]

GOOD: dict[str, Rows] = {
    "rtt": [("rtt", "2 ms, idle", "rtt_error_ms", 0.1)] * 200,
    "rtt loaded": [("rtt", "2 ms, 80 Mbit/s elsewhere", "rtt_error_ms", 0.9)] * 200,
    "rate": [("rate", "10 Mbit/s", "goodput_mbit", 9.5), ("rate", "10 Mbit/s", "goodput_mbit", 9.6)],
    "fast": [("rate", "1000 Mbit/s", "goodput_mbit", 901.0)] * 2,
    "loss": [("loss", "1 %", "sent", 10_000), ("loss", "1 %", "lost", 110)],
    "buffer": [("buffer", "100 Mbit/s", "rise_ms", 11.0), ("buffer", "100 Mbit/s", "theory_ms", 12.1)],
    "live": [("live", "delay", quantity, value) for quantity, value in (("sent", 100), ("changes", 3), ("lost", 0))]
    + [("live", "delay", "reordered", 0)],
    "death": [("death", "the delay line", "seconds", 0.2), ("death", "the delay line", "seconds", 0.9)],
    "up_and_down": [("up_and_down", "three hosts", "seconds", 1.4)],
    "identical": [("identical", "4 at once", "rtt_error_ms", 0.2), ("identical", "4 at once", "goodput_mbit", 19.1)],
    "syn_flood": [("syn_flood", "one process", "packets_per_second", 60_000.0)],
}
BAD: dict[str, Rows] = {
    "rtt": [("rtt", "2 ms, idle", "rtt_error_ms", 0.1)] * 195 + [("rtt", "2 ms, idle", "rtt_error_ms", 2.0)] * 5,
    "rtt loaded": [("rtt", "2 ms, 80 Mbit/s elsewhere", "rtt_error_ms", 1.1)] * 200,
    "rate": [("rate", "10 Mbit/s", "goodput_mbit", 9.2)],
    "fast": [("rate", "1000 Mbit/s", "goodput_mbit", 899.0)],
    "loss": [("loss", "1 %", "sent", 10_000), ("loss", "1 %", "lost", 121)],
    "buffer": [("buffer", "100 Mbit/s", "rise_ms", 10.2), ("buffer", "100 Mbit/s", "theory_ms", 12.1)],
    "live": [*GOOD["live"][:-1], ("live", "delay", "reordered", 1)],
    "death": [("death", "the delay line", "seconds", 0.2), ("death", "the delay line", "seconds", 1.1)],
    "up_and_down": [("up_and_down", "three hosts", "seconds", 1.6)],
    "identical": [*GOOD["identical"], ("identical", "4 at once", "goodput_mbit", 17.0)],
    "syn_flood": [("syn_flood", "one process", "packets_per_second", 49_000.0)],
}


def made(path: Path, rows: Rows, failures: dict[str, str] | None = None) -> Path:
    record: dict[str, Any] = {
        "run_id": "a-run", "emulation": "delay-line", "versions": {"kernel": "6.1"}, "git": {"commit": "0123456789ab"},
        "facts": {"failures": failures or {}}, "host_load": {"cores": 2},
    }  # fmt: skip
    (path / "run.json").write_text(json.dumps(record))
    frame = pd.DataFrame(rows, columns=["bar", "case", "quantity", "value"])
    frame.assign(repetition=0, busy_before=0.25, busy=0.5).to_parquet(path / "samples.parquet")
    return path


def test_all_bars_are_met(tmp_path: Path) -> None:
    figures = testbed.summarise(made(tmp_path, [row for rows in GOOD.values() for row in rows]))
    assert figures["verdict"] == "succeeded", figures["reason"]
    assert {line["bar"] for line in figures["bars"] if line["met"]} == {line["bar"] for line in figures["bars"]}
    assert all(line["busy"] == "25% / 50%" for line in figures["bars"])
    table = (tmp_path / "table.md").read_text()
    assert "| loss | 1 % | 1.1 (0.905 … 1.32) %: 110 lost | 81 to 120 lost | 10,000 | 25% / 50% | met |" in table
    assert "Linux 6.1, 2 cores, links by delay-line; code 0123456789." in table


@pytest.mark.parametrize("bar", BAD)
def test_each_bar_can_be_missed(tmp_path: Path, bar: str) -> None:
    figures = testbed.summarise(made(tmp_path, BAD[bar]))
    assert figures["verdict"] == "failed"
    assert sum(not line["met"] for line in figures["bars"]) == 1
    assert "**not met**" in (tmp_path / "table.md").read_text()


def test_lost_pings_are_no_good_ones(tmp_path: Path) -> None:
    figures = testbed.summarise(made(tmp_path, [*GOOD["rtt loaded"], (*GOOD["rtt loaded"][0][:3], float("nan"))]))
    assert figures["verdict"] == "failed" and "1 lost" in figures["reason"]


def test_what_could_not_be_measured_makes_it_invalid(tmp_path: Path) -> None:
    figures = testbed.summarise(made(tmp_path, GOOD["loss"], {"rate": "it ended with 1"}))
    assert (figures["verdict"], figures["reason"]) == ("invalid", "rate was not measured: it ended with 1")
    assert "| rate | | not measured |" in (tmp_path / "table.md").read_text()


def test_the_page_gets_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{testbed.BEGIN}\nold\n{testbed.END}\nbelow\n")
    testbed.summarise(made(tmp_path, GOOD["loss"]), page)
    text = page.read_text()
    assert text.startswith(f"above\n{testbed.BEGIN}\n| | case |") and text.endswith(f"{testbed.END}\nbelow\n")
    assert "old" not in text
    page.write_text("no place")
    with pytest.raises(RunError, match="has no lines"):
        testbed.summarise(tmp_path, page)
    with pytest.raises(RunError, match="is missing"):
        testbed.summarise(tmp_path / "none")


def test_intervals_of_quantiles_hold_the_quantile() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        found = testbed.quantile(generator.random(300), 0.95)
        inside += found.low <= 0.95 <= found.high
    assert 365 <= inside <= 400, "95 % of 400 are 380"
