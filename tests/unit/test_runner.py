"""Plans are carried out, and resumed; what was invalid is repeated, but not for ever. Trials are fake processes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments import attempt, runner
from experiments.attempt import Site
from experiments.ledger import Entry, Ledger, newest, passed
from experiments.plan import Request
from experiments.progress import Show
from testbed.errors import TestbedError
from testbed.results import Verdict
from tests.traces import born, eventually

FAKE = (sys.executable, "-S", str(Path(__file__).parents[1] / "fake_trial.py"))
ROOT = Path(__file__).parents[2]


def make(directory: Path, *behaviours: str, repetitions: int = 1, retries: int = 2) -> Ledger:
    requests = [Request("congestion", {"before": (0.5,), "after": (0.5,)}, ("tcp",), behaviours, small=True)]
    return Ledger.create("test", requests, repetitions, 1, retries, results=directory)


def judge(directories: Sequence[Path]) -> dict[Path, tuple[Verdict, str]]:
    return dict.fromkeys(directories, ("succeeded", ""))


def run(ledger: Ledger, judge: runner.Judge = judge, site: Site | None = None) -> str:
    """Perform the plan; what was said."""
    said = io.StringIO()
    with ledger.held(), Show(Console(file=said, width=200)) as show:
        runner.execute(ledger, runner.one_by_one(site or Site(ledger.directory, command=FAKE)), judge, show)
    return said.getvalue()


def states(directory: Path) -> dict[str, list[str]]:
    """By behaviour, the verdicts of all attempts, as plan.json has them."""
    found: dict[str, list[str]] = {}
    for entry in Ledger.load(directory).entries:
        found.setdefault(entry.trial.policy, []).extend(each.verdict for each in entry.attempts)
    return found


def test_all_trials_are_performed_in_the_order_of_the_plan(tmp_path: Path) -> None:
    ledger = make(tmp_path, "good", "unable", repetitions=3)
    said = run(ledger)
    assert states(ledger.directory) == {"good": ["succeeded"] * 3, "unable": ["unsupported"] * 3}
    assert [entry.attempts[0].run for entry in ledger.entries] == sorted(
        (entry.attempts[0].run for entry in ledger.entries),
        key=lambda run: (ledger.directory / "runs" / run / "trial.log").stat().st_mtime_ns,
    )
    assert Ledger.load(ledger.directory).state == "finished"
    assert (tmp_path / "latest").resolve() == (tmp_path / "test" / "latest").resolve() == newest(tmp_path).resolve()
    assert "6/6" in said and "left" in said


def test_invalid_trials_are_repeated_at_the_end_and_not_for_ever(tmp_path: Path) -> None:
    ledger = make(tmp_path, "broken", "good", "first-bad", "dead")
    said = run(ledger)
    assert states(ledger.directory) == {
        "broken": ["invalid"] * 3,
        "good": ["succeeded"],
        "first-bad": ["invalid", "succeeded"],
        "dead": ["invalid"] * 3,
    }
    reasons = {entry.trial.policy: entry.attempts[-1].reason for entry in ledger.entries}
    assert reasons["broken"] == "TestbedError: the link is not there"
    assert reasons["dead"] == "it ended with 3: NoSuchThing: it is not there"
    assert "3 of 4 trials were invalid; they are performed again" in said
    assert not passed(ledger.entries)


def test_what_only_the_analysis_finds_invalid_is_repeated(tmp_path: Path) -> None:
    ledger = make(tmp_path, "good", "busy", retries=1)

    def strict(directories: Sequence[Path]) -> dict[Path, tuple[Verdict, str]]:
        doubtful = {entry.attempts[0].run for entry in ledger.entries if entry.trial.policy == "good"}
        return {
            each: ("invalid", "a capture is torn") if each.name in doubtful else ("succeeded", "")
            for each in directories
        }

    said = run(ledger, strict)
    # A success on a machine that was too busy is none, whatever the analysis says.
    assert states(ledger.directory) == {"good": ["invalid", "succeeded"], "busy": ["invalid", "invalid"]}
    assert said.count("the machine was too busy: the machine stood still") == 2
    assert "a capture is torn" in said


def test_a_hanging_trial_is_ended_and_invalid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "seconds", lambda trial: 0.5)
    monkeypatch.setattr(attempt, "GRACE", 0.3)
    ledger = make(tmp_path, "hang", "stubborn", "good", retries=0)
    run(ledger)
    assert states(ledger.directory) == {"hang": ["invalid"], "stubborn": ["invalid"], "good": ["succeeded"]}
    for entry in ledger.entries:
        if entry.trial.policy != "good":
            assert entry.attempts[0].reason == "it hung: it was ended after 0.5 s"
            text = (ledger.run_directory(entry.attempts[0]) / "run.json").read_text()
            assert "it hung" in text


def test_the_failures_of_others_are_results(tmp_path: Path) -> None:
    ledger = make(tmp_path, "good")
    run(ledger, lambda directories: dict.fromkeys(directories, ("failed", "slow")))
    assert states(ledger.directory) == {"good": ["failed"]}
    assert passed(ledger.entries)
    (entry,) = ledger.entries
    mine = Entry(type(entry.trial)("congestion", "mtcp", "manual"), entry.attempts)
    assert not passed([mine])


def test_an_analysis_that_fails_loses_nothing(tmp_path: Path) -> None:
    ledger = make(tmp_path, "good")

    def broken(directories: Sequence[Path]) -> Any:
        raise TestbedError("the analysis failed")

    with pytest.raises(TestbedError):
        run(ledger, broken)
    again = Ledger.load(ledger.directory)
    assert states(again.directory) == {"good": ["unjudged"]} and again.state == "unfinished"
    run(again)
    assert states(again.directory) == {"good": ["succeeded"]}


RUNNER = """
import sys
from pathlib import Path
from tests.unit.test_runner import FAKE, run
from experiments.ledger import Ledger
from experiments.attempt import Site
try:
    run(Ledger.load(Path(sys.argv[1])))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_plan_is_resumed(tmp_path: Path, number: signal.Signals) -> None:
    ledger = make(tmp_path, "hang", "good", repetitions=2)
    process = subprocess.Popen([sys.executable, "-c", RUNNER, str(ledger.directory)], cwd=ROOT)
    assert eventually(lambda: bool(list(ledger.directory.glob("runs/*/hangs"))))
    (trial,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    alive = born(int(trial))
    process.send_signal(number)
    assert process.wait(20) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    if number == signal.SIGKILL:
        os.kill(int(trial), signal.SIGKILL)  # the real one sees that its parent has gone
    assert eventually(lambda: born(int(trial)) != alive)
    before = states(ledger.directory)
    assert before["hang"] == (["interrupted"] if number == signal.SIGINT else ["running"])
    for entry in (again := Ledger.load(ledger.directory)).entries:
        object.__setattr__(entry.trial, "policy", "good")
    run(again)
    assert [entry.verdict for entry in again.entries] == ["succeeded"] * 4
    (stopped,) = (entry for entry in again.entries if len(entry.attempts) == 2)
    assert [each.verdict for each in stopped.attempts] == ["interrupted", "succeeded"]


def test_a_plan_has_one_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = make(tmp_path, "good")
    monkeypatch.setattr("experiments.ledger.PATIENCE", 0.1)
    begun = time.monotonic()
    with ledger.held(), pytest.raises(TestbedError, match="somebody else"), Ledger.load(ledger.directory).held():
        pass
    assert time.monotonic() - begun < 5
    run(ledger)


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 99}', '{"schema_version": 1, "trials": [{}]}'])
def test_a_broken_plan_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(TestbedError, match=r"plan\.json"):
        Ledger.load(tmp_path)


def test_no_plan_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TestbedError, match="no plan"):
        Ledger.load(tmp_path)
    with pytest.raises(TestbedError, match="no plan"):
        newest(tmp_path)
