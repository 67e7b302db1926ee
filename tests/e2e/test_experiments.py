"""A tiny experiment as a user runs it: interrupted with Ctrl-C, resumed, judged, reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.scripts import ROOT
from tests.traces import Traces, child, eventually

BUSY = (
    "normal_p99_ms",
    "realtime_p99_ms",
    "stall_ms",
    "stolen",
    "emulator_late_p99_ms",
    "emulator_cpu",
    "client_late_ms",
)
LIMITS = "\n".join(["[fidelity]", *(f"{name} = 1e6" for name in BUSY)])
"""What is tested does not depend on how busy the machine is."""


def experiments(directory: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip


def plan(directory: Path) -> Any:
    return json.loads((directory / "results" / "latest" / "plan.json").read_text())


@pytest.mark.timeout(400)  # trials are repeated where the machine is too slow for them
def test_a_plan_is_interrupted_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text(LIMITS)
    tiny = ["--set", "before=1", "--set", "after=0.5", "--set", "rtt=8", "--set", "bw=20", "--set", "cross=18"]
    asked = [
        "congestion",
        "--small",
        "--mechanism",
        "mtcp,tcp",
        "--policy",
        "oracle",
        "--reps",
        "1",
        "--limits",
        "limits.toml",
    ]
    first = experiments(tmp_path, "run", *asked, *tiny)
    assert eventually(lambda: bool(list(tmp_path.glob("results/congestion/*/runs/*/logs"))), 60)
    trial = Traces(child(first.pid))
    os.killpg(first.pid, signal.SIGINT)
    said, _ = first.communicate(timeout=30)
    assert first.returncode == 130, said
    directory = (tmp_path / "results" / "latest").resolve()
    assert said.splitlines()[-1] == f"Interrupted. To go on: python -m experiments resume {directory}"
    assert eventually(trial.gone), trial.left()
    assert [attempt["verdict"] for each in plan(tmp_path)["trials"] for attempt in each["attempts"]] == ["interrupted"]

    again = experiments(tmp_path, "resume")
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert "the plan is finished" in said
    verdicts = {each["trial"]["mechanism"]: each["state"] for each in plan(tmp_path)["trials"]}
    assert verdicts == {"mtcp": "succeeded", "tcp": "succeeded"}, said
    assert {"mtcp", "tcp"} == set(
        json.loads((directory / "summary.json").read_text())["scenarios"]["congestion"]["usual"]
    )
