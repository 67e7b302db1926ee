"""Short soaks and chains, as a user runs them: judged by captures, clients and hashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.scripts import ROOT


def run(directory: Path, experiment: str, *options: str) -> dict[str, Any]:
    """Run an experiment with its results in `directory`; its summary. It must succeed."""
    limits = directory / "limits.toml"
    # What is tested does not depend on how busy the machine is.
    limits.write_text("[fidelity]\nnormal_p99_ms = 1e6\nrealtime_p99_ms = 1e6\nstall_ms = 1e6\nstolen = 1\n")
    command = [sys.executable, "-m", "experiments", "--limits", str(limits), experiment, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=_environment())
    found = list(directory.glob(f"results/{experiment}/latest/summary.json"))
    assert done.returncode == 0 and found, f"{done.stdout}{done.stderr}"
    summary: dict[str, Any] = json.loads(found[0].read_text())
    return summary


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_moves_under_loss_of_everything(tmp_path: Path) -> None:
    summary = run(tmp_path, "soak", "--migrations", "60", "--loss", "2")
    assert summary["migrations"] >= 60
    assert summary["clients_wrong"] == summary["resets"] == 0
    assert 0.01 < summary["packets_lost"] / summary["packets"] < 0.03
    kinds = summary["lost_by_kind"]
    assert {"data", "acknowledgement", "control connection"} <= kinds.keys()
    assert len(summary["migrations_by_workload"]) == 6
    assert not list(tmp_path.glob("results/soak/*/round/*/*.pcap")), "captures of good rounds are not kept"


def test_a_chain_of_moves_each_decided_when_the_last_commits(tmp_path: Path) -> None:
    summary = run(tmp_path, "chain", "--migrations", "20")
    assert summary["migrations_by_workload"] == {"download": 20, "upload-echo": 20, "slow-exporter": 20}
    assert summary["kept"] == 0 and summary["connections"] == 3
    assert summary["packets_lost"] == 0
