"""Policies on recorded connections (tests/data/policies/record.py): what they see of real links, and what they do.

Each is shown the recording at its own pace, until it wants to move: a recording shows what comes of staying.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mtcp.address import Endpoint
from mtcp.policy import Known, View, make

pytestmark = pytest.mark.unit
DATA = Path(__file__).parents[1] / "data" / "policies"
S1, S2 = Endpoint("10.0.1.1", 80), Endpoint("10.0.2.1", 80)
COUNTS = {field.name for field in fields(View) if field.type in ("int", "int | None")}
PERIOD = 0.02
"""Seconds between the recorded views."""

# From the fault on, in seconds: the earliest and the latest that is right. Cross traffic needs some 0.3 s to begin, and
# the queue of the link (as much again as the round-trip time) to fill.
MOVES: dict[str, dict[str, tuple[float, float]]] = {
    "download": {},
    "download-cross-tcp": {},
    "download-cross-traffic": {"throughput": (0.5, 1.5), "loss": (0.8, 2.0)},
    "download-lossy": {"throughput": (0.5, 1.5), "loss": (0.8, 2.0)},
    "download-starved": {"throughput": (0.5, 1.5)},
    "download-farther": {"best": (1.0, 3.0)},
    "slow-reader": {},
    "answered": {},
    "requests": {},
    "requests-cross-traffic": {},
    "requests-starved": {"stall": (0.3, 1.0), "latency": (0.2, 1.0)},
    "requests-farther": {"latency": (0.2, 1.0), "best": (1.0, 3.0)},
    "stream": {},
    "stream-cross-traffic": {"throughput": (0.5, 1.5), "loss": (0.8, 2.0), "latency": (1.0, 5.0)},
    "stream-starved": {"throughput": (0.5, 1.5), "stall": (0.3, 1.5), "latency": (0.2, 1.5)},
}
POLICIES = ("hints", "manual", "throughput", "stall", "latency", "loss", "best")


@lru_cache(1)
def recorded(name: str) -> list[View]:
    return list(_views(pd.read_parquet(DATA / f"{name}.parquet")))


def _views(frame: pd.DataFrame) -> Iterator[View]:
    for row in frame.to_dict("records"):
        seen: dict[str, Any] = {
            str(key): int(value) if key in COUNTS else value for key, value in row.items() if not math.isnan(value)
        }
        probed = {S1: seen.pop("rtt_current", None), S2: seen.pop("rtt_other", None)}
        yield View(current=S1, others=(S2,), servers={s: Known(rtt) for s, rtt in probed.items()}, **seen)


def first_move(spec: str, views: list[View]) -> float | None:
    """When it wants to move."""
    policy, due = make(spec)(), -math.inf
    for view in views:
        if policy.interval is None or view.now < due:
            continue
        due = view.now + policy.interval - PERIOD / 4
        if policy.observe(view) is not None:
            return view.now
    return None


def test_all_recordings_are_known() -> None:
    assert {path.stem for path in DATA.glob("*.parquet")} == MOVES.keys()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", MOVES)
def test_it_moves_when_it_should_and_only_then(name: str, policy: str) -> None:
    moved = first_move(policy, recorded(name))
    if policy not in MOVES[name]:
        assert moved is None
        return
    earliest, latest = MOVES[name][policy]
    assert moved is not None and earliest <= moved <= latest, moved


@pytest.mark.parametrize("policy", ["throughput:silence=1", "stall:silence=1"])
def test_who_is_told_to_does_not_bear_with_silence(policy: str) -> None:
    """Nothing shows whether a silent answer is complete: these do not wait for it, where the others do."""
    views = recorded("answered")
    answered = max(view.heard_at for view in views if view.heard_at is not None)
    moved = first_move(policy, views)
    assert moved is not None and answered + 0.9 <= moved <= answered + 1.3
    assert first_move(policy, recorded("download")) is None
    # Whose application does not read for half a second at a time.
    assert first_move(policy.replace("=1", "=0.3"), recorded("slow-reader")) is None


def test_the_recordings_are_of_what_they_say() -> None:
    def mbit(name: str, begin: float, end: float) -> float:
        views = [view for view in recorded(name) if begin <= view.now < end]
        return (views[-1].received - views[0].received) * 8e-6 / (views[-1].now - views[0].now)

    assert mbit("download", -4, 5) > 90
    for name in ("download-cross-traffic", "download-lossy", "download-starved"):
        assert mbit(name, -4, 0) > 90 and mbit(name, 1, 5) < 40
    assert 40 < mbit("download-cross-tcp", 1, 5) < 60
    assert mbit("slow-reader", -4, 5) < 15
