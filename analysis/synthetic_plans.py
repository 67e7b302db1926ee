"""Plans whose trials have been judged, with made-up observations: for tests, and to look at the report."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis import observations
from analysis.observations import Observation

MECHANISMS = ("mtcp", "tcp", "reconnect", "mptcp", "quic")
KEPT = {"mtcp": 0.93, "tcp": 0.18, "reconnect": 0.86, "mptcp": 0.4, "quic": 0.7}
STALL_MS = {"mtcp": 45.0, "reconnect": 110.0, "quic": 140.0}
BEFORE, AFTER, BIN = 2.5, 6.0, 0.1


def write_plan(
    path: Path, scenarios: Mapping[str, Mapping[str, Sequence[Any]]], repetitions: int = 3,
    mechanisms: Sequence[str] = MECHANISMS, seed: int = 1,
) -> Path:  # fmt: skip
    """A plan directory at `path`: each combination of the scenarios' factors, by each mechanism, so many times.

    MPTCP cannot do "dos", and the first trial of all was invalid at first.
    """
    random = np.random.default_rng(seed)
    trials: list[dict[str, Any]] = []
    for scenario, factors in scenarios.items():
        for values in itertools.product(*factors.values()):
            setting = dict(zip(factors, values, strict=True))
            for mechanism, repetition in itertools.product(mechanisms, range(1, repetitions + 1)):
                trial = {
                    "scenario": scenario, "mechanism": mechanism, "policy": "throughput", "factors": setting,
                    "repetition": repetition, "seed": 100 + repetition,
                }  # fmt: skip
                words = ["unsupported" if (scenario, mechanism) == ("dos", "mptcp") else "succeeded"]
                words = (["invalid"] if not trials else []) + words
                attempts: list[dict[str, str]] = []
                for word in words:
                    run_id = f"20260101T000000-{len(trials):04x}{len(attempts)}"
                    _write_run(path / "runs" / run_id, {**trial, "run_id": run_id}, word, random)
                    attempts.append({"run": run_id, "verdict": word, "reason": ""})
                trials.append({"trial": trial, "state": words[-1], "attempts": attempts})
    plan = {
        "schema_version": 1, "experiment": path.parent.name, "plan_id": path.name, "created": "2026-01-01T00:00:00",
        "seed": seed, "repetitions": repetitions, "requests": [{"scenario": name} for name in scenarios],
        "trials": trials,
    }  # fmt: skip
    (path / "plan.json").write_text(json.dumps(plan))
    return path


def _write_run(directory: Path, trial: dict[str, Any], word: str, random: np.random.Generator) -> None:
    directory.mkdir(parents=True)
    reason = {"invalid": "the machine stood still", "unsupported": "no second path"}.get(word, "every byte right")
    record = {
        "schema_version": 1, **trial, "verdict": word, "reason": reason, "emulation": "delay-line", "facts": {},
        "versions": {"kernel": "6.18", "python": "3.11"}, "git": {"commit": "0123456789abcdef", "modified": False},
        "host_load": {"cores": 2, "busy": 0.4}, "started": "2026-01-01T00:00:00",
    }  # fmt: skip
    (directory / "run.json").write_text(json.dumps(record))
    (directory / "events.jsonl").write_text("")
    observed = _observe(trial, random) if word == "succeeded" else iter(())
    observations.write(directory, observations.frame(observed))
    (directory / "summary.json").write_text(json.dumps({"verdict": word, "reason": reason}))


def _observe(trial: Mapping[str, Any], random: np.random.Generator) -> Iterator[Observation]:
    mechanism, factors = trial["mechanism"], trial["factors"]
    rtt = float(factors.get("rtt", 20))
    kept = KEPT[mechanism] * random.normal(1, 0.02)
    stall = STALL_MS.get(mechanism)
    floor = rtt + float(factors.get("state", 0)) * 8e-5
    detect = random.normal(800, 100)
    for time in np.arange(-BEFORE, AFTER, BIN):
        early = time * 1000 < detect
        level = 1 if time < 0 else (0.15 if early or stall is None else 0.97)
        yield Observation("goodput_mbps", 95 * level * random.normal(1, 0.02), "Mbit/s", float(time))
    yield Observation("goodput_before_mbps", 95.0, "Mbit/s")
    yield Observation("goodput_after_mbps", 95 * kept, "Mbit/s")
    yield Observation("kept", kept, "")
    yield Observation("silence_ms", random.normal(stall or 1500, 20), "ms")
    yield Observation("floor_ms", floor, "ms")
    if stall is not None:
        took = (stall - 20 + floor) * random.normal(1, 0.05)
        yield Observation("stall_ms", took, "ms")
        yield Observation("detect_ms", detect, "ms")
        yield Observation("move_stall_ms", took, "ms", detect / 1e3, "s2")
        yield Observation("floor_ratio", took / floor if floor else float("nan"), "")
        yield Observation("moves", 1, "")
    if mechanism == "mtcp":
        yield Observation("first_byte_ms", floor * 1.2, "ms", detect / 1e3, "s2")
        for name, share in (("C→S2: SYN+MIGRATE", 0.4), ("S1: fence and dump", 0.05), ("S2: restore", 0.05)):
            yield Observation(f"phase.{name}_ms", floor * share, "ms", detect / 1e3, "s2")
    if trial["scenario"] == "overload":
        for i in range(200):
            late = random.exponential(20 if stall is not None else 120)
            yield Observation("request_ms", rtt + late, "ms", i * AFTER / 200)
