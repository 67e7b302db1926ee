"""ffmpeg plays a film whose server dies: with M-TCP to its end, without a wrong frame, and not so with plain TCP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import judgement
from experiments import scenarios
from experiments.attempt import Site
from experiments.ledger import Attempt
from experiments.plan import Trial
from tests.e2e.test_scenarios import ATTEMPTS, metric, patience, unlimited

__all__ = ["patience"]
MOVES = 4


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an experiment: its trials have one film."""
    return tmp_path_factory.mktemp("video")


def perform(plan: Path, mechanism: str) -> tuple[judgement.Judgement, dict[str, Any]]:
    """A short trial, its judgement, and what the viewer saw."""
    scenario = scenarios.named("video")
    small = {
        name: factor.default if factor.small is None else factor.small for name, factor in scenario.factors.items()
    }
    site = Site(plan, unlimited(plan, late=2000))
    for number in range(ATTEMPTS):
        attempt = Attempt(f"{mechanism}-{number}")
        site.perform(Trial("video", mechanism, scenario.policy, small | {"moves": MOVES}), attempt)
        directory = plan / "runs" / attempt.run
        found = judgement.judge(directory)
        if found.verdict != "invalid":
            return found, json.loads((directory / "client" / "client.json").read_text())
    raise AssertionError(f"{mechanism}: {attempt.verdict}: {attempt.reason}; {found.reason}")


@pytest.mark.timeout(300)
def test_a_film_goes_on_when_its_server_dies(plan: Path) -> None:
    judged, report = perform(plan, "mtcp")
    assert judged.verdict == "succeeded", judged.reason
    seen = report["video"]
    assert seen["frames_right"] == seen["frames"] > 13 * 60, seen
    assert not any(seen[what] for what in ("frames_wrong", "decode_errors", "network_errors", "warnings")), seen
    assert metric(judged.observed, "measured.decode_errors") == metric(judged.observed, "measured.frames_missing") == 0
    assert metric(judged.observed, "moves") == MOVES + 1, "the operator's, and the policy's"
    assert metric(judged.observed, "connections") == 1


@pytest.mark.timeout(300)
def test_what_becomes_of_it_otherwise(plan: Path) -> None:
    judged, report = perform(plan, "tcp")
    assert judged.verdict == "failed"
    assert 0 < report["video"]["frames_right"] < report["video"]["frames"]
    assert report["video"]["frames_wrong"] == 0
    assert rebuffering(judged.observed) > 3
    judged, report = perform(plan, "reconnect")
    assert judged.verdict == "succeeded", judged.reason
    assert report["video"]["frames_right"] == report["video"]["frames"], report
    assert metric(judged.observed, "connections") > 1
    assert rebuffering(judged.observed) > 1, "S1 was away for three seconds"


def rebuffering(observed: pd.DataFrame) -> float:
    return metric(observed, "rebuffering_s")
