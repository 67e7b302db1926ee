"""Each scenario once, at its smallest, as the runner performs it; judged by captures and byte streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from analysis import judgement
from experiments import scenarios
from experiments.attempt import Site
from experiments.ledger import Attempt
from experiments.plan import Trial
from experiments.scenario import Value
from testbed.processes import PATIENCE

AT_ONCE = 3
"""Trials: most of the time each waits."""
ATTEMPTS = 3
"""Of a trial that the machine spoils: others use it, too."""
SHORT: Mapping[str, Value] = {"before": 1.0, "after": 1.5}
TRIALS: Mapping[str, Mapping[str, Value]] = {
    "drain": {"connections": 20, "seconds": 3.0, "rtt": 4.0},
    "state-size": {"state": 5_000, "moves": 3, "interval": 0.05, "rtt": 4.0},
    "recursive": {"moves": 4, "rtt": 4.0},
    "crash": {**SHORT, "after": 2.5},
    "wan": {**SHORT, "rtt": 20.0},
    "every-send": {**SHORT, "bytes": 1_000_000},
    "streaming": {**SHORT, "after": 3.0, "buffer": 1.0},
    "nginx": {"program": "curl", "moves": 6, "rtt": 4.0},
    "overhead": {"workload": "connections", "seconds": 1.0},
    "postgres": {**SHORT, "after": 3.0},
}
IN_TROUBLE: Mapping[str, Value] = {"before": 3.0, "after": 1.5, "rtt": 4.0, "bw": 50.0}
FAULTS: Mapping[str, Mapping[str, Value]] = {
    "overload": IN_TROUBLE,
    "congestion": {**IN_TROUBLE, "cross": 49.0},
    "dos": IN_TROUBLE,
}
"""Whose server, or the path to it, is in trouble when the connection moves; the oracle says when, for detectors need
more time, and a machine that is not busy."""
MOVES = {
    "drain": 20, "state-size": 3, "recursive": 4, "crash": 1, "wan": 1, "every-send": 2, "postgres": 1, "nginx": 6,
}  # fmt: skip
"""That the wire shows, at least. A film may be over before its policy has decided."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a client takes longer than usual until it is ready."""
    monkeypatch.setenv("MTCP_PATIENCE", str(3 * PATIENCE))


def perform(name: str, site: Site) -> judgement.Judgement:
    scenario = scenarios.named(name)
    factors = {each: factor.default for each, factor in scenario.factors.items()} | {**TRIALS, **FAULTS}[name]
    for number in range(ATTEMPTS):
        attempt = Attempt(f"{name}-{number}")
        policy = "oracle" if name in FAULTS else scenario.policy
        site.perform(Trial(name, "mtcp", policy, factors), attempt)
        directory = site.directory / "runs" / attempt.run
        found = judgement.judge(directory) if (directory / "run.json").exists() else None
        if found is not None and found.verdict != "invalid":
            return found
    raise AssertionError(f"{name}: {attempt.verdict}: {attempt.reason}; {found and found.reason}")


def unlimited(directory: Path, late: int) -> Path:
    """Limits of the machine: what is tested does not depend on how busy it is."""
    limits = directory / "limits.toml"
    names = ("normal_p99_ms", "realtime_p99_ms", "stall_ms", "emulator_late_p99_ms", "emulator_cpu", "stolen")
    limits.write_text("[fidelity]\n" + "".join(f"{name} = 1e6\n" for name in names) + f"client_late_ms = {late}\n")
    return limits


def perform_all(names: Iterable[str], tmp_path: Path, late: int = 300) -> dict[str, judgement.Judgement]:
    """All of them must succeed; what was judged. `late`: ms that a client may begin too late."""
    site = Site(tmp_path, unlimited(tmp_path, late))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = dict(zip(names, threads.map(lambda name: perform(name, site), names), strict=True))
    assert {name: each.verdict for name, each in found.items()} == dict.fromkeys(names, "succeeded"), found
    return found


@pytest.mark.timeout(300)
def test_clients_leave_a_server_in_trouble(tmp_path: Path) -> None:
    for name, judged in perform_all(FAULTS, tmp_path, late=2000).items():
        assert metric(judged.observed, "moves") == 1, name
        assert metric(judged.observed, "goodput_after_mbps") > 5, name


@pytest.mark.timeout(300)
def test_each_scenario(tmp_path: Path) -> None:
    found = perform_all(TRIALS, tmp_path)
    for name, least in MOVES.items():
        assert metric(found[name].observed, "moves") >= least, (name, found[name].observed)
    assert metric(found["drain"].observed, "measured.stayed") == 0
    assert metric(found["wan"].observed, "floor_ms") == 22.0
    assert metric(found["crash"].observed, "goodput_after_mbps") > 10
    assert metric(found["overhead"].observed, "measured.connections") > 20


def metric(observed: pd.DataFrame, name: str) -> float:
    (value,) = observed.loc[(observed["metric"] == name) & observed["time"].isna(), "value"]
    return float(value)
