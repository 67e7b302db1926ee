"""Every TCP segment that a run's captures show, a row each, with roles and in the protocol's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
Stream = tuple[str, int, int, bool]
"""Client's address and port, port of the service, whether it is the direction from the client."""
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
    clients = [ip for name, ip in run.facts["hosts"].items() if name.startswith(CLIENT)]
    first = _first_bytes(captures, clients)
    parts = []
    for host in list(captures):
        seen = captures.pop(host)  # one after the other, for they may be large
        parts += [_part(of_client(seen, ip), ip, host, run.facts["hosts"], first) for ip in clients]
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    found = pd.concat(parts, ignore_index=True).sort_values("time_ns", kind="stable", ignore_index=True)
    found["ms"] = (found["time_ns"] - _zero(run, found)) / 1e6
    return found[list(COLUMNS)]


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


def _first_bytes(captures: Mapping[str, pd.DataFrame], clients: Sequence[str]) -> dict[Stream, int]:
    """The sequence numbers of first bytes, as the SYNs say."""
    found: dict[Stream, int] = {}
    for seen in captures.values():
        opening = seen[(seen["flags"] & SYN != 0) & (seen["control"] < MIGRATE)]
        for client in clients:
            mine = of_client(opening, client)
            columns = (mine[name].tolist() for name in ("port", "service", "out", "seq"))
            for port, service, out, seq in zip(*columns, strict=True):
                found.setdefault((client, port, service, out), seq + 1)
    return found


def _part(
    mine: pd.DataFrame, client: str, host: str, hosts: Mapping[str, str], first: dict[Stream, int]
) -> pd.DataFrame:
    """What a host saw of a client's connections (of_client); `first` gets what no SYN says."""
    names = {capture.address(ip): name for name, ip in hosts.items()}
    mine = mine[mine["server"].isin(list(names))].reset_index(drop=True)
    offset, acked = (np.zeros(len(mine), np.int64) for _ in range(2))
    stream = mine[mine["control"] < MIGRATE]
    for (port, service, out), segments in stream.groupby(["port", "service", "out"]):
        ends = client, int(str(port)), int(str(service))
        seq, ack = (segments[name].to_numpy(np.int64) for name in ("seq", "ack"))
        offset[segments.index] = capture.unwrap(seq, first.setdefault((*ends, bool(out)), int(seq[0])))
        told = segments["flags"].to_numpy() & (ACK | RST) == ACK
        if told.any():
            begin = first.setdefault((*ends, not out), int(ack[told][0]))
            acked[segments.index[told]] = capture.unwrap(ack[told], begin)
    is_stream = mine["control"] < MIGRATE
    return pd.DataFrame({
        "time_ns": mine["time_ns"],
        "host": pd.Categorical([host] * len(mine), list(hosts)),
        "src": pd.Categorical(mine["src"].map(names), list(hosts)),
        "dst": pd.Categorical(mine["dst"].map(names), list(hosts)),
        "port": mine["port"], "service": mine["service"],
        "direction": pd.Categorical(np.where(mine["out"], "up", "down"), ["up", "down"]),
        "kind": kinds(mine),
        "offset": pd.Series(offset, dtype="Int64").where(is_stream),
        "acked": pd.Series(acked, dtype="Int64").where(is_stream & (mine["flags"] & (ACK | RST) == ACK)),
        "payload": mine["payload"].astype("int64"),  # so that sums cannot overflow
        "window": mine["window"],
    })  # fmt: skip


def _zero(run: Run, found: pd.DataFrame) -> int:
    """From when milliseconds count."""
    trial = Trial(run)
    if trial.moments is not None:
        return int(trial.wall(trial.moments.fault))
    return int(found["time_ns"].iloc[0]) if len(found) else 0
