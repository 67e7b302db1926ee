"""Every TCP segment that a run's captures show, a row each, with roles and in the protocol's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import capture, verdict
from analysis.capture import ACK, FIN, MIGRATE, RST, SYN
from analysis.connections import of_client
from analysis.run import CLIENT, Run
from analysis.trials import Trial

CONTROL = (
    "", "CAPABLE", "MIGRATE", "ACCEPT", "ACK3", "ADD_SERVERS", "ADD_SERVERS_ACK", "REJECT", "ABORT", "ABORT_ACK",
    "QUERY", "HINT", "HINT_ACK", "REFUSAL", "control segment 14", "control segment 15",
)  # fmt: skip
"""Subtypes of the M-TCP option (PROTOCOL.md), by their numbers, of which there is room for 16."""
PLAIN = ("RST", "SYN-ACK", "SYN", "data", "FIN", "acknowledgement")
"""What segments without such an option are."""
COLUMNS = (
    "time_ns", "ms", "host", "src", "dst", "port", "service", "direction", "kind", "offset", "acked", "payload",
    "window",
)  # fmt: skip


def packets(run: Path | str | Run) -> pd.DataFrame:
    """The segments of the connections between a run's clients and servers, by all captures that can be read.

    A row for each capture that saw the segment, in order of time. Columns COLUMNS:

    time_ns, ms         when: since the epoch; since the fault, or in a run without one since the first segment
    host                whose capture it is: `client`, `s1`, `s2` …, as in run.json; that of a client sees what its
                        mapping refuses, too
    src, dst            who sent it to whom, by the same names
    port, service       which connection: the client's port, and the service's
    direction           up: from the client; down: to it
    kind                one of PLAIN, or, of control segments of M-TCP, their subtype, as MIGRATE, ACCEPT, ACK3
    offset, acked       relative sequence and acknowledgement number: bytes since the stream's first one, beyond 2^32
                        and whichever server sends; NA in control segments, whose numbers mean something else
    payload, window     bytes; as on the wire

    RunError if `run` is no run directory. Captures of few packets only (the run's fact `captured`) give few rows.
    """
    run = run if isinstance(run, Run) else Run.load(run, needed=("hosts",))
    captures, _ = verdict.read_captures(run)
    hosts = {capture.address(ip): name for name, ip in run.facts["hosts"].items()}
    clients = [ip for name, ip in run.facts["hosts"].items() if name.startswith(CLIENT)]
    parts = []
    for host, seen in captures.items():
        for ip in clients:
            mine = of_client(seen, ip)
            parts.append(mine[mine["server"].isin(list(hosts))].assign(host=host, client=ip))
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    found = pd.concat(parts, ignore_index=True)
    found["kind"] = kinds(found)
    found = found.assign(**_offsets(found)).sort_values("time_ns", kind="stable", ignore_index=True)
    found["direction"] = pd.Categorical(np.where(found["out"], "up", "down"))
    for name in ("src", "dst"):
        found[name] = pd.Categorical(found[name].map(hosts))
    found["host"] = pd.Categorical(found["host"])
    found["ms"] = (found["time_ns"] - _zero(run, found)) / 1e6
    frame: pd.DataFrame = found[list(COLUMNS)].astype({"payload": "int64"})  # so that sums cannot overflow
    return frame


def kinds(packets: pd.DataFrame) -> pd.Categorical[Any]:
    """What each segment (of capture.read) is: one of PLAIN, or the name of its control subtype."""
    flags, control = packets["flags"].to_numpy(), packets["control"].to_numpy(np.int64)
    syn, size = flags & SYN != 0, packets["payload"].to_numpy()
    plain = np.select(
        [flags & RST != 0, syn & (flags & ACK != 0), syn, size > 0, flags & FIN != 0], range(5), len(PLAIN) - 1
    )
    codes = np.where(control >= MIGRATE, control - MIGRATE + len(PLAIN), plain).astype(np.int64)
    found: pd.Categorical[Any] = pd.Categorical.from_codes(codes, pd.Index([*PLAIN, *CONTROL[MIGRATE:]]))
    return found


def _offsets(found: pd.DataFrame) -> Mapping[str, pd.Series]:
    """`offset` and `acked` of the segments."""
    columns = {name: pd.Series(pd.NA, found.index, "Int64") for name in ("offset", "acked")}
    stream = found[found["control"] < MIGRATE]
    for _, connection in stream.groupby(["client", "port", "service"]):
        first = {out: _first(connection[connection["out"] == out]) for out in (True, False)}
        for (_, out), segments in connection.groupby(["host", "out"]):
            columns["offset"][segments.index] = capture.unwrap(segments["seq"].to_numpy(np.int64), first[bool(out)])
            told = segments[segments["flags"] & (ACK | RST) == ACK]
            columns["acked"][told.index] = capture.unwrap(told["ack"].to_numpy(np.int64), first[not out])
    return columns


def _first(sent: pd.DataFrame) -> int:
    """The sequence number of the first byte in one direction: as its SYN says, else the first that there is."""
    opening = sent[sent["flags"] & SYN != 0]
    if len(opening):
        return int(opening["seq"].iloc[0]) + 1
    return int(sent.sort_values("time_ns", kind="stable")["seq"].iloc[0]) if len(sent) else 0


def _zero(run: Run, found: pd.DataFrame) -> int:
    """From when milliseconds count."""
    trial = Trial(run)
    if trial.moments is not None:
        return int(trial.wall(trial.moments.fault))
    return int(found["time_ns"].iloc[0]) if len(found) else 0
