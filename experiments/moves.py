"""The agents' event logs of a run, merged: one `migration` event a move, with its phases."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PHASES = (
    ("C→S2: SYN+MIGRATE", "decided", "migrate_received"),
    ("S2→S1: state request", "migrate_received", "request_received"),
    ("S1: fence and dump", "request_received", "dumped"),
    ("S1→S2: state reply", "dumped", "reply_received"),
    ("S2: restore", "reply_received", "restored"),
    ("S2→C: SYN-ACK, commit", "restored", "committed"),
)
"""(name, from event, to event), in the order of PROTOCOL.md's table of steps."""


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The events of one agent."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def merge(directory: Path, names: Mapping[str, str], since: int = 0) -> Iterator[dict[str, Any]]:
    """The events of all agents in `directory`, in order of time; `names` are the servers' names by address.

    Only those `since` then (ns, CLOCK_MONOTONIC): later connections use the ports of earlier ones again.

    A `migration` event gets the names of its servers, the port of the service, its phases in ms, and how many bytes
    of state and buffers were shipped.
    """
    events = [
        {**event, "host": path.stem.removeprefix("agent-")}
        for path in sorted(directory.glob("agent-*.jsonl"))
        for event in read(path)
        if event["monotonic_ns"] >= since
    ]
    first: dict[tuple[str, int, str], int] = {}
    shipped: dict[tuple[str, int], int] = {}
    for event in events:
        if "attempt" in event:
            first.setdefault((_port(event), event["attempt"], event["event"]), event["monotonic_ns"])
        if "shipped" in event:
            shipped[_port(event), event["attempt"]] = event["shipped"]
    for event in sorted(events, key=lambda e: e["monotonic_ns"]):
        if event["event"] == "migration":
            event = _named(event, names, first) | {"shipped": shipped.get((_port(event), event["attempt"]))}
        yield event


def _port(event: Mapping[str, Any]) -> str:
    """The client's end, however the event writes it."""
    connection = event["connection"]
    return connection if isinstance(connection, str) else "{}:{}".format(*connection)


def _named(
    event: dict[str, Any], names: Mapping[str, str], first: Mapping[tuple[str, int, str], int]
) -> dict[str, Any]:
    moments = {"decided": event["decided_ns"], "committed": event["committed_ns"]}
    for name in ("migrate_received", "request_received", "dumped", "reply_received", "restored"):
        moments[name] = first.get((_port(event), event["attempt"], name), 0)
    phases = {
        phase: (moments[end] - moments[start]) / 1e6 for phase, start, end in PHASES if moments[start] and moments[end]
    }
    ends = {end: names.get(event[end].rpartition(":")[0], event[end]) for end in ("from", "to")}
    service = int(event["to"].rpartition(":")[2])
    return {**event, **ends, "service_port": service, "committed_ns": event["committed_ns"] or None, "phases": phases}
