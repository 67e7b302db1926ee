"""What one sees while trials are performed: a line for each, and how long it will take yet."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.ledger import UNJUDGED, Attempt, Entry
from experiments.plan import Trial

OVERHEAD = 5.0
"""Seconds that a trial takes beside its own times, as long as none has been seen."""
COLOURS = {"invalid": "yellow", "failed": "red", "unsupported": "dim", UNJUDGED: "green", "succeeded": "green"}


class Show:
    """A bar below the lines on a terminal; elsewhere only the lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.at_once = 1
        """Trials that are performed at the same time."""
        self._bar = Progress(
            TextColumn("[bold]trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.fields[left]} {task.fields[now]}"), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("trials", total=0, left="", now="")
        self._seen: list[tuple[Trial, float]] = []
        self._left: list[Trial] = []

    def expect(self, entries: Iterable[Entry]) -> None:
        """These will be performed next."""
        self._left += [entry.trial for entry in entries]
        done = self._bar.tasks[0].completed
        self._bar.update(self._task, total=done + len(self._left))

    def begun(self, entry: Entry) -> None:
        """One of those expected is performed from now on."""
        self._bar.update(self._task, now=f"· {name(entry.trial)}", left=self._eta())

    def ended(self, entry: Entry, attempt: Attempt) -> None:
        """It is over."""
        self._left.remove(entry.trial)
        self._seen.append((entry.trial, attempt.seconds))
        self._bar.update(self._task, advance=1, now="", left=self._eta())
        colour = COLOURS.get(attempt.verdict, "red")
        what = "done" if attempt.verdict == UNJUDGED else attempt.verdict
        count = f"{len(self._seen)}/{len(self._seen) + len(self._left)}"
        eta = f", {self._eta()}" if self._left and not self.console.is_terminal else ""
        self.say(f"{count:>7} {name(entry.trial)}: [{colour}]{what}[/], {attempt.seconds:.1f} s{eta}")
        if attempt.verdict == UNJUDGED and attempt.reason:
            self.say(f"        [yellow]the machine was too busy:[/] {escape(attempt.reason)}")
        elif attempt.reason:
            self.say(f"        {escape(attempt.reason)}")

    def say(self, line: str) -> None:
        """Print a line."""
        self.console.print(line, soft_wrap=True, highlight=False)

    def _eta(self) -> str:
        seconds = sum(expected(trial, self._seen) for trial in self._left) / self.at_once
        return f"about {duration(seconds)} left"

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._bar.stop()


def expected(trial: Trial, seen: Iterable[tuple[Trial, float]]) -> float:
    """Seconds that a trial will take: as those before that are most like it."""
    seen = list(seen)
    alike = [
        [took for other, took in seen if (other.scenario, other.mechanism) == (trial.scenario, trial.mechanism)],
        [took for other, took in seen if other.scenario == trial.scenario],
    ]
    for times in alike:
        if times:
            return mean(times)
    return _own(trial) + (mean(took - _own(other) for other, took in seen) if seen else OVERHEAD)


def _own(trial: Trial) -> float:
    """Seconds that the trial itself is to last."""
    return sum(float(trial.factors.get(name, 0)) for name in ("before", "after"))


def name(trial: Trial) -> str:
    """The trial in a few words."""
    return f"{trial.scenario} {trial.mechanism} {trial.policy} #{trial.repetition}"


def duration(seconds: float) -> str:
    """For people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
