"""A plan is carried out: its trials one after another, each in a process and a sandbox of its own; then the verdicts.

What the testbed or the machine spoilt (`invalid`) is performed again when all else is done, as often as the plan says,
and reported. Interrupted at any point, even killed, the plan can be resumed: see experiments.ledger.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.markup import escape

from experiments.attempt import Site
from experiments.ledger import PENDING, Entry, Ledger
from experiments.progress import Show, name
from testbed import results

BUSY = 0.5
"""Load average per processor from which it is worth a word."""

Perform = Callable[[Ledger, Sequence[Entry], Show], None]
"""Performs these trials, once each, and notes what came of them in the ledger."""
Judge = Callable[[Sequence[Path]], dict[Path, tuple[results.Verdict, str]]]
"""Looks at runs; verdict and reason of each. TestbedError."""


def execute(ledger: Ledger, perform: Perform, judge: Judge, show: Show) -> None:
    """Perform what is to be performed, until all is judged, or repeated often enough.

    KeyboardInterrupt and TestbedError end it; the ledger is up to date then. The caller holds the ledger.
    """
    say_if_busy(show)
    while wanted := ledger.wanting():
        show.expect(wanted)
        again = [entry for entry in wanted if entry.verdict != PENDING]
        if again:
            show.say(f"{len(again)} of {len(ledger.entries)} trials were invalid; they are performed again")
        perform(ledger, wanted, show)
        judge_all(ledger, judge, show)
    judge_all(ledger, judge, show)
    ledger.save()


def judge_all(ledger: Ledger, judge: Judge, show: Show) -> None:
    """Have those judged that nobody has looked at."""
    entries = ledger.unjudged()
    if not entries:
        return
    show.say(f"judging {len(entries)} runs")
    verdicts = judge([ledger.run_directory(entry.attempts[-1]) for entry in entries])
    for entry in entries:
        attempt = entry.attempts[-1]
        directory = ledger.run_directory(attempt)
        attempt.verdict, attempt.reason = results.conclude(directory, *verdicts[directory])
        if attempt.verdict == "invalid":
            show.say(f"        {name(entry.trial)}: [yellow]invalid[/]: {escape(attempt.reason)}")
    ledger.save()


def one_by_one(site: Site) -> Perform:
    """Perform trials on this machine, one after another: two at a time would disturb each other."""

    def perform(ledger: Ledger, entries: Sequence[Entry], show: Show) -> None:
        for entry in entries:
            attempt = ledger.begin(entry)
            show.begun(entry)
            try:
                site.perform(entry.trial, attempt)
            finally:
                ledger.save()
            show.ended(entry, attempt)

    return perform


def say_if_busy(show: Show) -> None:
    """Others on this machine make runs invalid: better to know that before."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY * cores:
        show.say(f"[yellow]the machine is busy[/] (load {load:.1f} on {cores} processors): runs may be invalid")
