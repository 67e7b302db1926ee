"""Whether the machine was up to a run."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from testbed.errors import TestbedError
from testbed.fidelity import Limits, Monitor, at_all_moments, exceeded, summarise
from testbed.results import Run

ENDLESS = Limits(**dict.fromkeys((each.name for each in fields(Limits)), 1e9))
"""The machine that the tests run on may be as busy as it likes."""


def make(results: Path) -> Run:
    return Run("demo", scenario="s", mechanism="mtcp", results=results)


def record(run: Run) -> Any:
    return json.loads(run.path("run.json").read_text())


@pytest.mark.parametrize("name", [each.name for each in fields(Limits)])
def test_each_limit_is_one(name: str) -> None:
    limits = Limits()
    at = asdict(limits)
    assert exceeded(at, limits) == []
    (reason,) = exceeded(at | {name: at[name] + 1}, limits)
    assert f"(limit {at[name]:g})" in reason
    assert exceeded(dict.fromkeys(at), limits) == exceeded({}, limits) == [], "what is not known exceeds nothing"


def test_limits_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "limits.toml"
    path.write_text("[fidelity]\nstolen = 0.5\nemulator_drops = 7\n[other]\nx = 1\n")
    assert Limits.read(path) == Limits(stolen=0.5, emulator_drops=7.0)
    for text, complaint in (
        ("[fidelity]\nstolne = 1", "fidelity.stolne is no limit"),
        ("[fidelity]\nstolen = -1", "no number from 0 on"),
        ("[fidelity]\nstolen = '5 %'", "no number from 0 on"),
        ("stolen", "limits.toml: "),
    ):
        path.write_text(text)
        with pytest.raises(TestbedError, match=complaint):
            Limits.read(path)
    with pytest.raises(TestbedError, match="No such file"):
        Limits.read(tmp_path / "none")


def test_a_long_delay_counts_for_as_long_as_it_lasted() -> None:
    late = at_all_moments(np.array([0.1, 50.0, 0.1]), 20)
    assert sorted(late) == [0.1, 0.1, 10.0, 30.0, 50.0]


def test_figures() -> None:
    stalled = [0.1] * 980 + [500.0]
    figures = summarise({"realtime_ms": stalled, "normal_ms": [1.0] * 200, "busy": [0.5, 1.0], "stolen": [0.0, 0.1]})
    assert figures["realtime_p50_ms"] == 0.1
    assert figures["realtime_p99_ms"] > 200, "half a second of 20 s"
    assert figures["stall_ms"] == figures["realtime_max_ms"] == 500
    assert (figures["normal_p99_ms"], figures["busy"], figures["stolen"]) == (1.0, 0.75, 0.05)


def test_few_samples_have_no_percentiles() -> None:
    figures = summarise({"normal_ms": [19.0] * 3, "realtime_ms": [3.0]})
    assert figures == {"normal_max_ms": 19.0, "realtime_max_ms": 3.0, "stall_ms": 3.0}
    assert summarise({}) == {}


def test_a_run_has_what_was_seen(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        with Monitor(run, limits=ENDLESS) as monitor:
            deadline = time.monotonic() + 20
            while len(monitor._samples) < 60 and time.monotonic() < deadline:
                time.sleep(0.05)
        run.finish("succeeded")
    seen = pd.read_parquet(run.path("fidelity.parquet"))
    assert {"normal_ms", "busy", "stolen"} <= set(seen["quantity"])
    assert (seen["value"] >= 0).all() and seen["monotonic_ns"].max() <= time.monotonic_ns()
    noted = record(run)
    assert noted["verdict"] == "succeeded"
    assert noted["fidelity"]["exceeded"] == [] and noted["fidelity"]["limits"]["stolen"] == 1e9
    assert 0 < noted["fidelity"]["figures"]["busy"] <= 1
    assert monitor._sleepers[0].returncode == -signal.SIGKILL, "none is left"


def test_a_monitor_that_does_not_see_says_so(tmp_path: Path) -> None:
    with make(tmp_path) as run:
        with Monitor(run, limits=ENDLESS) as monitor:
            monitor._sleepers[0].kill()
            monitor._sleepers[0].wait()
        run.finish("succeeded")
    assert record(run)["verdict"] == "invalid"
    assert "the monitor did not see all" in record(run)["reason"]


def test_a_success_on_a_machine_that_was_not_up_to_it_is_invalid(tmp_path: Path) -> None:
    doubt = {"exceeded": ["it was slow", "it was late"]}
    success, failure = make(tmp_path), make(tmp_path)
    for run, verdict in ((success, "succeeded"), (failure, "failed")):
        run.fidelity(doubt)
        run.finish("invalid", "not judged yet")
        run.finish(verdict, "because")  # type: ignore[arg-type]
    assert (record(success)["verdict"], record(success)["reason"]) == ("invalid", "it was slow; it was late")
    assert (record(failure)["verdict"], record(failure)["reason"]) == ("failed", "because")


def test_a_void_run_stays_invalid(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.void("the delay line has died")
    assert (record(run)["verdict"], record(run)["reason"]) == ("invalid", "the delay line has died")
    run.void("something else")
    run.finish("failed", "nothing arrived")
    assert (record(run)["verdict"], record(run)["reason"]) == ("invalid", "the delay line has died")
