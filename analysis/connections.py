"""All connections of a capture at a client, each as the client's mapping let it be.

The capture sees packets before the mapping does. It is deaf from a MIGRATE SYN on, and from the ACCEPT on it hears the
new server only (or, after an ABORT, the old one): what it let in, and nothing else, is progress.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import capture, migrations
from analysis.capture import ABORT, ACCEPT, ACK, FIN, MIGRATE, RST, SYN, Ints


@dataclass(frozen=True)
class Connection:
    """One connection of a client; times in ns since the epoch."""

    client: str
    """Its address."""
    port: int
    service_port: int
    handshakes: int
    commits: list[tuple[int, int]]
    """(time of the ACCEPT, number of the server's address) of every move that committed, in order."""
    heard: dict[int, int]
    """Segments let in, by the number of the server's address."""
    steps: Ints
    """When its stream went on, in either direction."""

    @property
    def ends(self) -> tuple[str, int]:
        """What tells it apart: the client's end, and the service's port."""
        return f"{self.client}:{self.port}", self.service_port

    @property
    def worst_gap(self) -> tuple[int, int]:
        """(start, end) of the longest time in which the stream did not go on; (0, 0) if it never did."""
        return longest(self.steps)

    def gap(self, start: int, end: int) -> tuple[int, int]:
        """The longest of those times that overlap with [start, end)."""
        first, last = np.searchsorted(self.steps, [start, end])
        return longest(self.steps[max(0, first - 1) : last + 1])


def longest(steps: Ints) -> tuple[int, int]:
    """(start, end) of the widest of the intervals between ascending times."""
    if len(steps) < 2:
        return 0, 0
    widest = int(np.diff(steps).argmax())
    return int(steps[widest]), int(steps[widest + 1])


def connections(packets: pd.DataFrame, client: str) -> Iterator[Connection]:
    """The connections that the client of this address has opened, in the order of their ports."""
    mine = of_client(packets, client)
    # One port may have several connections at a time, to different services.
    for ends, segments in mine.groupby(["port", "service"]):
        if (segments["out"] & (segments["flags"] & (SYN | ACK) == SYN)).any():
            port, service = map(int, map(str, ends))
            yield _connection(segments, client, port, service)


def of_client(packets: pd.DataFrame, client: str) -> pd.DataFrame:
    """The client's segments, with columns `out` (from it), `port` (its own), `server` and `service` (the other end)."""
    number = capture.address(client)
    out = packets["src"] == number
    mine = packets[out | (packets["dst"] == number)]
    out = out.loc[mine.index]
    return mine.assign(
        out=out,
        port=np.where(out, mine["sport"], mine["dport"]),
        server=np.where(out, mine["dst"], mine["src"]),
        service=np.where(out, mine["dport"], mine["sport"]),
    )


def resets(packets: pd.DataFrame, client: str, closed: Mapping[tuple[int, int], int]) -> set[tuple[int, int, int]]:
    """RSTs on the client's connections: (port, seq, ack), so that one which two captures saw counts once.

    Not those after `closed` (see there): so any TCP answers a segment that overtakes the last FIN.
    """
    mine = of_client(packets, client)
    found = mine[(mine["flags"] & RST != 0) & (mine["control"] < MIGRATE)]
    columns = (found[name].tolist() for name in ("time_ns", "port", "service", "seq", "ack"))
    return {
        (port, seq, ack)
        for time, port, service, seq, ack in zip(*columns, strict=True)
        if time < closed.get((port, service), time + 1)
    }


def closings(packets: pd.DataFrame, client: str) -> dict[tuple[int, int], int]:
    """When both ends of the client's connections had sent their FINs, by client's and service's port."""
    mine = of_client(packets, client)
    fins = mine[(mine["flags"] & FIN != 0) & (mine["control"] < MIGRATE)]
    both: dict[tuple[int, int], dict[bool, int]] = {}
    columns = (fins[name].tolist() for name in ("time_ns", "port", "service", "out"))
    for time, port, service, out in zip(*columns, strict=True):
        both.setdefault((port, service), {}).setdefault(out, time)
    return {ends: max(first.values()) for ends, first in both.items() if len(first) == 2}


def steps(incoming: pd.DataFrame, outgoing: pd.DataFrame) -> Ints:
    """When the stream went on: downwards with new payload, upwards with an acknowledgement of new bytes."""
    stream = incoming[(incoming["control"] < MIGRATE) & (incoming["flags"] & (SYN | RST) == 0)]
    found = []
    data = stream[stream["payload"] > 0]
    if len(data):
        offsets = capture.unwrap(data["seq"].to_numpy(np.int64), int(data["seq"].iloc[0]))
        _, edge = migrations.progress(offsets, data["payload"].to_numpy(np.int64))
        found.append(_advances(data["time_ns"].to_numpy(np.int64), edge))
    if len(stream) and (outgoing["payload"] > 0).any():
        acks = capture.unwrap(stream["ack"].to_numpy(np.int64), int(stream["ack"].iloc[0]))
        found.append(_advances(stream["time_ns"].to_numpy(np.int64), np.maximum.accumulate(acks)))
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _connection(segments: pd.DataFrame, client: str, port: int, service: int) -> Connection:
    syns = segments[segments["out"] & (segments["flags"] & (SYN | ACK) == SYN)]
    opening = syns[syns["control"] != MIGRATE]
    changes, commits = _tenures(segments, int(opening["server"].iloc[0]) if len(opening) else 0)
    incoming = segments[~segments["out"]]
    turn = np.searchsorted([time for time, _ in changes], incoming["time_ns"].to_numpy(np.int64), side="right") - 1
    heard_then = np.array([server for _, server in changes])[np.maximum(turn, 0)]
    let_in = incoming[(heard_then == incoming["server"].to_numpy()) & (incoming["control"] < MIGRATE)]
    return Connection(
        client,
        port,
        service,
        int(opening["seq"].nunique()),
        commits,
        {int(str(server)): int(count) for server, count in let_in["server"].value_counts().items()},
        steps(let_in, segments[segments["out"]]),
    )


def _tenures(segments: pd.DataFrame, first: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """From when on whom the mapping hears (0: nobody), and the commits among these changes."""
    changes, commits = [(0, first)], []
    current, target = first, 0
    control = segments[segments["control"].isin([MIGRATE, ACCEPT, ABORT])]
    columns = (control[name].tolist() for name in ("time_ns", "out", "server", "control"))
    for time, out, server, subtype in zip(*columns, strict=True):
        if out and subtype == MIGRATE and server not in (current, target):
            target = server
            changes.append((time, 0))
        elif not out and subtype == ACCEPT and server == target:
            current, target = target, 0
            changes.append((time, current))
            commits.append((time, current))
        elif out and subtype == ABORT and target:
            target = 0
            changes.append((time, current))
    return changes, commits


def _advances(times: Ints, edge: Ints) -> Ints:
    return times[np.diff(edge, prepend=np.int64(0)) > 0]
