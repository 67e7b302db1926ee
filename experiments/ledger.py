"""A plan that is being carried out, on disk: results/<experiment>/<plan-id>/.

    plan.json        what was asked for, what that is in words, the seed, the trials in their order, and what became of
                     each
    runs/<run-id>/   what each attempt left (testbed.results)
    limits.toml      of the machine (testbed.fidelity), where others than usual were asked for
    summary.json     the headline figures, by `python -m analysis report`

plan.json is written anew at each step, so that a plan can be resumed whatever happened to its runner. The last of a
trial's attempts is the one that counts; those before are kept, and say why they do not.
"""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from experiments import scenarios
from experiments.plan import Request, Trial, plan
from testbed import machine
from testbed.errors import TestbedError
from testbed.results import RESULTS, give_to_invoker, new_id, point_to, write_json

SCHEMA_VERSION = 1
PATIENCE = 20.0
"""Seconds for the last trial of a runner that was killed to go, too."""
PENDING, RUNNING, INTERRUPTED, UNJUDGED = "pending", "running", "interrupted", "unjudged"
"""Beside testbed.results.Verdict. What was interrupted is performed again, and does not count as an attempt."""


@dataclass
class Attempt:
    """One run of a trial."""

    run: str
    """Its id. It has no directory if it did not come so far."""
    verdict: str = RUNNING
    reason: str = ""
    seconds: float = 0.0
    """How long it took, with all that is around it."""
    where: str = ""
    """The worker that performed it (experiments.sweep); "": the machine of the runner."""


@dataclass
class Entry:
    """A trial, and what became of it."""

    trial: Trial
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """That of the last attempt; PENDING before, and after one that was interrupted."""
        last = self.attempts[-1].verdict if self.attempts else PENDING
        return PENDING if last == INTERRUPTED else last

    def wants(self, retries: int) -> bool:
        """Whether it is to be performed: not yet, or all attempts were invalid, and those are not too many."""
        invalid = sum(attempt.verdict == "invalid" for attempt in self.attempts)
        return self.verdict == PENDING or (self.verdict == "invalid" and invalid <= retries)


class Ledger:
    """The plan in a directory."""

    def __init__(self, directory: Path, metadata: dict[str, Any], entries: list[Entry]) -> None:
        """Use `create` or `load`."""
        self.directory, self.metadata, self.entries = directory, metadata, entries

    @classmethod
    def create(
        cls, experiment: str, requests: Sequence[Request], repetitions: int, seed: int, retries: int,
        limits: Path | None = None, results: Path = RESULTS,
    ) -> Self:  # fmt: skip
        """Plan, and make the directory. Those who look for the latest find it from now on."""
        name = new_id()
        directory = (results / experiment / name).resolve()
        directory.mkdir(parents=True)
        metadata = {
            "schema_version": SCHEMA_VERSION,
            "experiment": experiment,
            "plan_id": name,
            "created": datetime.now(UTC).isoformat(),
            "git": machine.git_revision(),
            "seed": seed,
            "repetitions": repetitions,
            "retries": retries,
            "requests": [asdict(request) for request in requests],
            "scenarios": {request.scenario: described(request.scenario) for request in requests},
        }
        ledger = cls(directory, metadata, [Entry(trial) for trial in plan(requests, repetitions, seed)])
        if limits is not None:
            (directory / "limits.toml").write_text(limits.read_text())
        ledger.save()
        links = (directory.parent / "latest", name), (results / "latest", f"{experiment}/{name}")
        for link, target in links:
            point_to(link, target)
        give_to_invoker(results, directory.parent, *(link for link, _ in links), directory)
        return ledger

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The plan in `directory`; TestbedError when there is none, or of another version."""
        file = directory / "plan.json"
        try:
            metadata = json.loads(file.read_text())
            if metadata["schema_version"] != SCHEMA_VERSION:
                raise TestbedError(f"{file} is of another version: {metadata['schema_version']}")
            entries = [
                Entry(Trial(**entry["trial"]), [Attempt(**each) for each in entry["attempts"]])
                for entry in metadata.pop("trials")
            ]
        except OSError as error:
            raise TestbedError(f"no plan there: {file}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise TestbedError(f"{file} makes no sense: {error!r}") from None
        return cls(directory.resolve(), metadata, entries)

    def save(self) -> None:
        """Write plan.json, so that a reader sees the old or the new one, nothing between."""
        content = self.metadata | {
            "state": self.state,
            "trials": [
                {"trial": asdict(each.trial), "state": each.verdict, "attempts": [asdict(a) for a in each.attempts]}
                for each in self.entries
            ],
        }
        write_json(self.directory / "plan.json", content)
        give_to_invoker(self.directory / "plan.json")

    def begin(self, entry: Entry) -> Attempt:
        """Note that the entry's trial is performed from now on."""
        entry.attempts.append(Attempt(new_id()))
        self.save()
        return entry.attempts[-1]

    @property
    def state(self) -> Literal["unfinished", "finished"]:
        return "unfinished" if self.wanting() or self.unjudged() else "finished"

    @property
    def limits(self) -> Path | None:
        """Of the machine; None: the usual ones."""
        file = self.directory / "limits.toml"
        return file if file.exists() else None

    def run_directory(self, attempt: Attempt) -> Path:
        return self.directory / "runs" / attempt.run

    def wanting(self) -> list[Entry]:
        """The trials that are to be performed, in the plan's order."""
        return [entry for entry in self.entries if entry.wants(self.metadata["retries"])]

    def unjudged(self) -> list[Entry]:
        """Those that have been performed and that nobody has looked at."""
        return [entry for entry in self.entries if entry.verdict == UNJUDGED]

    @contextlib.contextmanager
    def held(self) -> Iterator[int]:
        """Nobody else performs it meanwhile; a descriptor that does the same for a process that inherits it.

        What ran when the last runner was killed is INTERRUPTED then. TestbedError when somebody has it.
        """
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if time.monotonic() > deadline:
                    raise TestbedError(f"somebody else is performing {self.directory}")
                time.sleep(0.05)
            for entry in self.entries:
                for attempt in entry.attempts:
                    if attempt.verdict == RUNNING:
                        attempt.verdict, attempt.reason = INTERRUPTED, "its runner was killed"
            yield descriptor
        finally:
            os.close(descriptor)


def described(scenario: str) -> dict[str, Any]:
    """A scenario in words, for who reads the results without this code: `done`, and what its `factors` mean."""
    kind = type(scenarios.named(scenario))
    return {
        "done": inspect.cleandoc(sys.modules[kind.__module__].__doc__ or ""),
        "factors": {name: factor.meaning for name, factor in kind.factors.items()},
    }


def passed(entries: Iterable[Entry]) -> bool:
    """Whether nothing is left to explain: that plain TCP and others fail is a result; that M-TCP does is not."""
    return all(
        entry.verdict in ("succeeded", "unsupported") or (entry.verdict == "failed" and entry.trial.mechanism != "mtcp")
        for entry in entries
    )


def newest(results: Path = RESULTS) -> Path:
    """The directory of the plan that was made last; TestbedError when there is none."""
    found = sorted(results.glob("*/*/plan.json"), key=lambda file: file.parent.name)
    found = [file for file in found if not file.parent.is_symlink()]
    if not found:
        raise TestbedError(f"no plan in {results}: see `python -m experiments run --help`")
    return found[-1].parent
