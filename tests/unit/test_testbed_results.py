"""Results directories."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pytest

from testbed import machine
from testbed.results import Run


def load(run: Run, name: str) -> Any:
    return json.loads(run.path(name).read_text())


def make(results: Path) -> Run:
    return Run("demo", scenario="s", mechanism="mtcp", factors={"bw": 10}, seed=7, repetition=2, results=results)


def test_a_run_writes_all(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        run.event("migrated", to="s2")
        run.event("earlier", monotonic_ns=5)
        frame = pd.DataFrame({"t": [1, 2], "v": [0.5, 1.5]})
        run.samples(pyarrow.Table.from_pandas(frame))
        run.sysctls({"s1": {"net.ipv4.tcp_sack": "1"}})
        run.finish("succeeded")
    data = load(run, "run.json")
    assert data["schema_version"] == 1
    assert (data["verdict"], data["factors"], data["seed"], data["repetition"]) == (
        "succeeded",
        {"bw": 10},
        7,
        2,
    )
    assert data["sysctls"]["s1"] == {"net.ipv4.tcp_sack": "1"}
    assert data["versions"]["kernel"] and 0 <= data["host_load"]["busy"] <= 1
    events = [json.loads(line) for line in run.path("events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["migrated", "earlier"]
    assert events[1]["monotonic_ns"] == 5
    pd.testing.assert_frame_equal(pd.read_parquet(run.path("samples.parquet")), frame)
    assert run.path("samples.csv").read_text().splitlines()[0] == '"t","v"'
    assert (tmp_path / "demo" / "latest").resolve() == run.directory


def test_latest_is_the_run_that_ended_last(tmp_path: Path) -> None:
    first, second = make(tmp_path), make(tmp_path)
    second.finish("failed", "hash")
    first.finish("succeeded")
    assert (tmp_path / "demo" / "latest").readlink() == Path(first.id)
    assert load(second, "run.json")["reason"] == "hash"
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == sorted([first.id, second.id, "latest"])


def test_a_verdict_may_be_corrected(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.finish("invalid", "not judged yet")
    ended = load(run, "run.json")
    run.finish("succeeded")
    assert load(run, "run.json") == ended | {"verdict": "succeeded", "reason": ""}


def test_an_exception_makes_a_run_invalid(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), make(tmp_path) as run:
        raise ZeroDivisionError("oh")
    assert load(run, "run.json")["verdict"] == "invalid"
    assert load(run, "run.json")["reason"] == "ZeroDivisionError: oh"


def test_a_run_that_was_killed_is_invalid(tmp_path: Path) -> None:
    assert load(make(tmp_path), "run.json")["verdict"] == "invalid"


def test_under_sudo_results_belong_to_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[Path, tuple[int, int]] = {}
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.chown", lambda path, uid, gid, **_options: given.update({path: (uid, gid)}))
    monkeypatch.setenv("SUDO_UID", "1000")
    monkeypatch.setenv("SUDO_GID", "1001")
    run = make(tmp_path)
    run.finish("succeeded")
    files = {run.path("run.json"), run.path("events.jsonl"), tmp_path / "demo" / "latest", tmp_path / "demo", tmp_path}
    assert files <= given.keys()
    assert set(given.values()) == {(1000, 1001)}


def test_clock_offset() -> None:
    assert abs(time.monotonic_ns() + machine.realtime_minus_monotonic_ns() - time.time_ns()) < 50_000_000
