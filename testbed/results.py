"""The results of one run, in a directory: results/<experiment>/<run-id>/.

    run.json         what was run, where, and the verdict (below)
    events.jsonl     one JSON object a line: monotonic_ns, event, and what belongs to it
    samples.parquet  tidy: one observation a row; samples.csv is the same
    summary.json     the headline figures under stable keys
    fidelity.parquet what testbed.fidelity has seen of the machine meanwhile
    *.pcap, *.log    captures, and what programs printed; x.pcap1, x.pcap2 ... go on where x.pcap ends
    probes-*.parquet what was sampled of the hosts' kernels (analysis.probes); .csv where a run was killed

results/<experiment>/latest is a link to the run that ended last.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from testbed import machine

if TYPE_CHECKING:
    import pyarrow

SCHEMA_VERSION = 1
RESULTS = Path("results")
UNJUDGED = "not judged yet"
"""The reason of a run that ended as it should, and that is `invalid` until somebody has judged it."""

Verdict = Literal["succeeded", "failed", "unsupported", "invalid"]
"""`unsupported`: the mechanism cannot do it. `invalid`: harness or machine failed, so it says nothing."""


class Run:
    """One run. As a context manager, a run that an exception ends is `invalid`, and says why."""

    def __init__(
        self,
        experiment: str,
        *,
        scenario: str,
        mechanism: str,
        factors: Mapping[str, Any] | None = None,
        seed: int = 0,
        repetition: int = 0,
        emulation: str = "tbf",
        results: Path = RESULTS,
        id: str = "",
    ) -> None:
        """Make the directory and write run.json with the verdict `invalid`: it stands if the run is killed.

        `factors`: what is varied, by name. `emulation`: link emulation backend. `id`: default, a new one.
        """
        self.id = id or new_id()
        self.directory = (results / experiment / self.id).resolve()
        self.directory.mkdir(parents=True)
        self._load = machine.Load()
        self.metadata: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "experiment": experiment,
            "run_id": self.id,
            "scenario": scenario,
            "mechanism": mechanism,
            "factors": dict(factors or {}),
            "seed": seed,
            "repetition": repetition,
            "verdict": "invalid",
            "reason": "the run did not end",
            "started": datetime.now(UTC).isoformat(),
            "realtime_minus_monotonic_ns": machine.realtime_minus_monotonic_ns(),
            "emulation": emulation,
            "sysctls": {},
            "limits": {},
            "versions": machine.versions(),
            "git": machine.git_revision(),
        }
        self._void = ""
        self._lock = threading.Lock()
        self._events = self.path("events.jsonl").open("w")
        self._write("run.json", self.metadata)

    def path(self, name: str) -> Path:
        """Path of the file `name` in the run's directory."""
        return self.directory / name

    def event(self, event: str, monotonic_ns: int | None = None, **details: Any) -> None:
        """Note that `event` happened, now unless `monotonic_ns` (CLOCK_MONOTONIC) is given."""
        record = {"monotonic_ns": monotonic_ns or time.monotonic_ns(), "event": event, **details}
        self._events.write(json.dumps(record, default=str) + "\n")
        self._events.flush()

    def sysctls(self, values: Mapping[str, Mapping[str, str]]) -> None:
        """Note the sysctls of hosts: {host: {name: value}}."""
        self.metadata["sysctls"] = {host: dict(each) for host, each in values.items()}

    def limits(self, values: Mapping[str, Mapping[str, float | None]]) -> None:
        """Note what hosts may use of the machine: {host: {cpu_cores, memory_mib}}; None: no limit."""
        self.metadata["limits"] = {host: dict(each) for host, each in values.items()}

    def samples(self, table: pyarrow.Table, name: str = "samples") -> None:
        """Write the tidy `table` as <name>.parquet and <name>.csv."""
        from pyarrow import csv, parquet

        parquet.write_table(table, self.path(f"{name}.parquet"))
        csv.write_csv(table, self.path(f"{name}.csv"), csv.WriteOptions(quoting_style="needed"))

    def fidelity(self, record: Mapping[str, Any]) -> None:
        """Note what testbed.fidelity has found: `exceeded` are reasons not to believe in a success."""
        self.metadata["fidelity"] = {**record, "void": self._void}

    def void(self, reason: str) -> None:
        """The run is `invalid` now, whatever comes. May be called from any thread."""
        with self._lock:
            self._void = self._void or reason
            self.metadata |= {"verdict": "invalid", "reason": self._void}
            # Another thread may just add to it. Then the file says `invalid` as from the beginning, and why in the end.
            with contextlib.suppress(RuntimeError):
                self._write("run.json", self.metadata)

    def finish(self, verdict: Verdict, reason: str = "") -> None:
        """Write the verdict and let `latest` be this run. When called again, only the verdict changes.

        It is `invalid` after `void`; so is a success on a machine that was not up to it. A failure stays one.
        """
        if not self._events.closed:
            load = self._load.since_start()
            self.metadata |= {"ended": datetime.now(UTC).isoformat(), "host_load": load}
            self._events.close()
        with self._lock:
            fidelity = {**self.metadata.get("fidelity", {}), "void": self._void}
            verdict, reason = _standing(verdict, reason, fidelity)
            self.metadata |= {"verdict": verdict, "reason": reason}
            self._write("run.json", self.metadata)
        latest = self.directory.parent / "latest"
        point_to(latest, self.id)
        give_to_invoker(self.directory.parents[1], self.directory.parent, latest, self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if not self._events.closed:
            said = f"{type(value).__name__}: {value}" if value else "the run ended without a verdict"
            self.finish("invalid", said)

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        write_json(self.path(name), content)


def new_id() -> str:
    """Of a run or a plan: when it was made (UTC), and something random. They sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that a reader sees the old or the new file, nothing between."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(content, indent=2, default=str) + "\n")
    new.replace(path)


def point_to(link: Path, target: str) -> None:
    """Let the symbolic link be one to `target`, whatever it was before; at no time there is none."""
    new = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    new.symlink_to(target)
    new.replace(link)


def conclude(directory: Path, verdict: Verdict, reason: str) -> tuple[Verdict, str]:
    """Note the verdict on a run of another process that has ended; what stands then: see Run.finish."""
    metadata = json.loads((directory / "run.json").read_text())
    verdict, reason = _standing(verdict, reason, metadata.get("fidelity", {}))
    write_json(directory / "run.json", metadata | {"verdict": verdict, "reason": reason})
    give_to_invoker(directory)
    return verdict, reason


def _standing(verdict: Verdict, reason: str, fidelity: Mapping[str, Any]) -> tuple[Verdict, str]:
    """What stands of a verdict after what testbed.fidelity has found."""
    if fidelity.get("void"):
        return "invalid", fidelity["void"]
    if verdict == "succeeded" and fidelity.get("exceeded"):
        return "invalid", "; ".join(fidelity["exceeded"])
    return verdict, reason


def give_to_invoker(*paths: Path) -> None:
    """Under sudo: make `paths`, and all that is in the last of them, belong to the user who called sudo."""
    if os.geteuid() != 0 or "SUDO_UID" not in os.environ:
        return
    uid, gid = int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", os.environ["SUDO_UID"]))
    for path in (*paths, *paths[-1].rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # another run replaces `latest` at the same time
            os.chown(path, uid, gid, follow_symlinks=False)
