"""Sweeps: two dask workers on one machine perform a plan's trials, fake processes; one dies, Ctrl-C comes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from experiments import runner, sweep
from experiments.ledger import Ledger
from experiments.progress import Show
from testbed.errors import TestbedError
from tests.traces import born, eventually
from tests.unit.test_runner import FAKE, judge, make, states

PATIENCE = 60.0
"""Seconds for workers to do something, which are slow on a busy machine."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[runner.Perform]:
    directory = tmp_path_factory.mktemp("sweep")
    before = Path.cwd()
    os.chdir(directory)  # that of the workers, too: what they do not clean up is there
    try:
        with sweep.over(None, 2, directory, FAKE) as perform:
            yield perform
    finally:
        os.chdir(before)


def run(ledger: Ledger, perform: runner.Perform) -> str:
    """Perform the plan; what was said."""
    said = io.StringIO()
    with ledger.held(), Show(Console(file=said, width=200)) as show:
        runner.execute(ledger, perform, judge, show)
    return said.getvalue()


def hanging() -> list[Path]:
    """What trials that hang have left where workers perform them: each names its process."""
    found = []
    for file in Path("results").glob(".sweep-*/runs/*/hangs"):
        with contextlib.suppress(FileNotFoundError):  # the worker tidies up
            found += [file] * bool(file.read_text())
    return found


def test_two_workers_share_a_plan(tmp_path: Path, two: runner.Perform) -> None:
    ledger = make(tmp_path, "good", "unable", "dead", "busy", repetitions=3, retries=0)
    said = run(ledger, two)
    expected = {"good": "succeeded", "unable": "unsupported", "dead": "invalid", "busy": "invalid"}
    assert states(ledger.directory) == {name: [verdict] * 3 for name, verdict in expected.items()}, said
    attempts = [entry.attempts[0] for entry in ledger.entries]
    assert len({attempt.where for attempt in attempts}) == 2
    gathered = {file.parent.name for file in ledger.directory.glob("runs/*/run.json")}
    assert gathered == {attempt.run for attempt in attempts if "NoSuchThing" not in attempt.reason}
    assert not list(Path("results").glob(".sweep-*")), "workers keep nothing"


def test_ctrl_c_ends_all_trials(tmp_path: Path, two: runner.Perform) -> None:
    ledger = make(tmp_path, "hang", repetitions=3)
    trials: dict[int, str | None] = {}

    def interrupt() -> None:
        eventually(lambda: len(hanging()) == 2, PATIENCE)
        trials.update({pid: born(pid) for pid in map(int, (file.read_text() for file in hanging()))})
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(ledger, two)
    thread.join()
    assert states(ledger.directory) == {"hang": ["interrupted"] * 2}
    assert eventually(lambda: not any(then and born(pid) == then for pid, then in trials.items()), PATIENCE)
    assert eventually(lambda: not hanging(), PATIENCE), "workers keep nothing"


def test_the_trial_of_a_worker_that_dies_is_invalid_and_not_performed_again(
    tmp_path: Path, two: runner.Perform
) -> None:
    ledger = make(tmp_path, "hang", "good", repetitions=2, retries=0)
    for entry in ledger.entries[1:]:
        object.__setattr__(entry.trial, "policy", "good")
    object.__setattr__(ledger.entries[0].trial, "policy", "hang")
    trials = []

    def kill() -> None:
        assert eventually(lambda: bool(hanging()), PATIENCE)
        trials.append(int(hanging()[0].read_text()))
        parent = Path(f"/proc/{trials[0]}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(parent), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run(ledger, two)
    killer.join()
    os.kill(trials[0], signal.SIGKILL)  # the real one sees that its parent has gone
    (attempt,) = ledger.entries[0].attempts
    assert attempt.verdict == "invalid" and attempt.reason == f"its worker is gone ({attempt.where})"
    assert [entry.verdict for entry in ledger.entries[1:]] == ["succeeded"] * 3
    assert len(hanging()) == 1, "it began once"


def test_no_scheduler_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "CONNECT", 0.2)
    with (
        pytest.raises(TestbedError, match=r"no dask scheduler at tcp://127\.0\.0\.1:1"),
        sweep.over("tcp://127.0.0.1:1", 0, tmp_path),
    ):
        pass
