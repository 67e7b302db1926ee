"""What a run directory records beside its captures: `run.json` and `events.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

SCHEMA_VERSION = 1
CLIENT = "client"


class RunError(ValueError):
    """The directory is not a run that can be analysed; the message is one line that says why."""


@dataclass(frozen=True)
class Run:
    """One repetition of one scenario. `record` is run.json, `events` the lines of events.jsonl."""

    path: Path
    record: dict[str, Any]
    events: list[dict[str, Any]]

    @classmethod
    def load(cls, path: Path | str, needed: Sequence[str] = ("hosts", "service_port", "client_port")) -> Run:
        """Read the run directory at `path`; RunError if one of the facts `needed`, or else, is missing or malformed."""
        path = Path(path).resolve()
        if not path.is_dir():
            raise RunError(f"{path} is not a directory")
        record = read_object(path / "run.json", schema_version=SCHEMA_VERSION)
        facts = record.get("facts", {})
        if not isinstance(facts, dict) or not isinstance(facts.get("hosts", {}), dict):
            raise RunError(f"{path}/run.json: facts, and facts.hosts, are objects")
        missing = [key for key in needed if key not in facts]
        if missing or ("hosts" in needed and CLIENT not in facts["hosts"]):
            lacks = f"{path}/run.json lacks facts.{missing[0] if missing else 'hosts.' + CLIENT}"
            raise RunError(f"{lacks}: {record['reason']}" if record.get("reason") else lacks)
        return cls(path, record, _json_lines(path / "events.jsonl"))

    @property
    def id(self) -> str:
        """The run's name: `run_id` of run.json, else the directory's."""
        return str(self.record.get("run_id", self.path.name))

    @property
    def scenario(self) -> str:
        """The name of what was tried."""
        return str(self.record.get("scenario", "?"))

    @property
    def mechanism(self) -> str:
        """What kept the client served, or did not."""
        return str(self.record.get("mechanism", "?"))

    @property
    def factors(self) -> dict[str, Any]:
        """What is varied, by name."""
        factors: dict[str, Any] = self.record.get("factors", {})
        return factors

    @property
    def facts(self) -> dict[str, Any]:
        """What the runner noted outside the captures: addresses, ports, hashes, exit status, drops."""
        facts: dict[str, Any] = self.record.get("facts", {})
        return facts

    @property
    def void(self) -> str:
        """Why the run says nothing at all (testbed.fidelity), or ""."""
        return str(self.record.get("fidelity", {}).get("void", ""))

    @property
    def doubts(self) -> str:
        """Why a success of the run would not be one: limits of testbed.fidelity that were exceeded; or ""."""
        return "; ".join(self.record.get("fidelity", {}).get("exceeded", []))

    @property
    def realtime_minus_monotonic_ns(self) -> int:
        """From the clock of events and clients to that of captures."""
        return int(self.record.get("realtime_minus_monotonic_ns", 0))

    @property
    def client_ip(self) -> str:
        """The client's address on the service network."""
        return str(self.facts["hosts"][CLIENT])

    @property
    def servers(self) -> dict[str, str]:
        """Name -> service address of each server, in the order of run.json, which fixes their colours."""
        return {name: ip for name, ip in self.facts["hosts"].items() if name != CLIENT}

    @property
    def asked(self) -> int:
        """How many moves the run set out to make: the factor `migrations`, else one per migration event."""
        asked = self.factors.get("migrations")
        return int(asked) if asked is not None else len(self.migrations)

    @cached_property
    def migrations(self) -> pd.DataFrame:
        """The migrations as the agents report them, in order of decision, one row each.

        Columns: `decided_ns`, `committed_ns` (wall clock; NA if it did not take place), `from`, `to` (servers' names),
        `committed` (whether it took place), `outcome` (the reason if there is one, else the event's outcome), `phases`
        ({name: ms}, in order), `client` (its end of the connection, as the event has it), `attempt` (its number on that
        connection), `shipped` (bytes of state and buffers; NA where the event does not say).
        """
        offset = self.realtime_minus_monotonic_ns
        rows = [
            {
                "decided_ns": int(event["decided_ns"]) + offset,
                "from": self._server(event.get("from")),
                "to": self._server(event.get("to")),
                "committed_ns": int(event["committed_ns"]) + offset if event.get("committed_ns") else pd.NA,
                "committed": bool(event.get("committed_ns")),
                "outcome": event.get("reason") or event.get("outcome"),
                "phases": event.get("phases") or {},
                "client": str(event.get("connection", "")),
                "attempt": int(event.get("attempt") or 0),
                "shipped": event.get("shipped"),
            }
            for event in self.events
            if event.get("event") == "migration" and event.get("decided_ns") is not None
        ]
        columns = [
            "decided_ns", "committed_ns", "from", "to", "committed", "outcome", "phases", "client", "attempt",
            "shipped",
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=columns).astype(
            {
                "decided_ns": "int64",
                "committed_ns": "Int64",
                "committed": "bool",
                "attempt": "int64",
                "shipped": "Int64",
            }
        )
        return frame.sort_values("decided_ns", kind="stable", ignore_index=True)

    def _server(self, text: Any) -> str:
        """The name of the server that an event calls by name, address, or address and port; else the text."""
        text = str(text)
        names = {ip: name for name, ip in self.servers.items()}
        return names.get(text) or names.get(text.rpartition(":")[0]) or text


def read_object(path: Path, keys: Iterable[str] = (), schema_version: int | None = None) -> dict[str, Any]:
    """The JSON object in the file; RunError if there is none, it lacks one of the `keys`, or has another version."""
    try:
        found = _parse(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is missing: is {path.parent} a directory of results?") from None
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise RunError(f"{path} is no JSON object")
    if schema_version is not None and found.get("schema_version") != schema_version:
        version = found.get("schema_version", "none")
        raise RunError(f"{path} has schema version {version}; only {schema_version} can be read")
    missing = [key for key in keys if key not in found]
    if missing:
        raise RunError(f"{path} lacks {missing[0]}: it is of something else, or of another version")
    return found


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """One object per line; a last line cut short, as a killed writer leaves it, is ignored."""
    if not path.exists():
        raise RunError(f"{path} is missing: is {path.parent} a directory of results?")
    lines = path.read_bytes().splitlines()
    events = []
    for number, line in enumerate(lines, 1):
        try:
            event = _parse(line)
            if not isinstance(event, dict):
                raise ValueError("not an object")
            events.append(event)
        except ValueError as error:
            if number < len(lines):
                raise RunError(f"{path}:{number} is not an event in JSON: {error}") from None
    return events


def _parse(text: str | bytes) -> Any:
    """ValueError for all that is not JSON, or not text."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
