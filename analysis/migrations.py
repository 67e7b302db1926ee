"""What the captures say about a connection that moves: who sent which bytes, when, and what each move cost.

All times are the client's capture's (ns since the epoch), all offsets count from the first byte that the
servers sent on the connection. A move is what the wire shows, not what an agent reports: a MIGRATE SYN to a
server, its ACCEPT, and payload from it.

The capture sees packets before the client's mapping does, also those that the mapping refuses. What a server
sends after the MIGRATE SYN that leaves it, at or beyond the point of the stream where its successor begins,
therefore counts as refused: it is neither new nor progress, but waste, and the successor sends it again. So does what
comes of the successor before its ACCEPT: it is late, of an earlier tenure. The mapping is deaf from the decision on,
which may be well before its MIGRATE SYN is on the wire, and mute, too: so what the client still acknowledged to the
old server, or anything before it, it was not deaf to. What it refused later, its first acknowledgement to the new
server shows. That need not be true of earlier data, for the mapping acknowledges no more to a server than that has
sent: the client may have more, from the old one, behind a gap or not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import capture
from analysis.capture import ABORT, ACCEPT, ACK, MIGRATE, RST, SYN, Ints
from analysis.run import Run

CLOCK_SLACK_NS = 100_000
"""How long after its MIGRATE SYN a decision may seem to be: it was timed by another, monotonic clock."""

LAST_PHASE = "S2→C: first new byte"
"""What the agents cannot time: the application's way from its connection to the client's wire."""

_FOREVER = np.iinfo(np.int64).max
_TENURE_COLUMNS = ["from", "to", "syn_ns", "end_ns", "accept_ns", "payload_ns", "handover", "heard_ns", "acknowledged"]


@dataclass(frozen=True)
class Trace:
    """One connection as the client's capture shows it.

    deliveries: a row per packet with payload from a server: `time_ns`, `server`, `offset`, `payload` (bytes),
        `fresh` (bytes of it never delivered before), `edge` (bytes delivered in order, with this packet).
    moves: a row per move: `from`, `to`, `syn_ns` (first MIGRATE SYN), `accept_ns`, `payload_ns` (the new
        server's first payload), `handover` (its offset), `new_ns` (its first new in-order payload),
        `migration_ms` (syn to payload), `stall_ms` (longest time without new in-order payload meanwhile).
    acknowledgements: the client's, a row each: `time_ns`, `server` (to whom), `offset` up to which it has the stream.
    accepts: (server, time of its ACCEPT) of every attempt that it accepted.
    attempts: MIGRATE SYNs without their repetitions, whether a move came of them or not.
    """

    deliveries: pd.DataFrame
    moves: pd.DataFrame
    acknowledgements: pd.DataFrame
    accepts: list[tuple[str, int]]
    attempts: int
    handshakes: int
    other_connections: int

    @property
    def duration_s(self) -> float:
        """From the first to the last payload at the client."""
        times = self.deliveries["time_ns"]
        return float(times.iloc[-1] - times.iloc[0]) / 1e9 if len(times) else 0.0

    @property
    def delivered(self) -> int:
        """Bytes of the stream that arrived in order."""
        return int(self.deliveries["edge"].iloc[-1]) if len(self.deliveries) else 0

    @property
    def has_hole(self) -> bool:
        """Whether bytes arrived after a gap in the stream that nothing ever filled."""
        return self.delivered != int(self.deliveries["fresh"].sum())

    @property
    def duplicate_bytes(self) -> int:
        """Payload that reached the client's interface without being new: sent again, or refused."""
        return int((self.deliveries["payload"] - self.deliveries["fresh"]).sum())

    @property
    def max_gap_ms(self) -> float:
        """Longest time between two advances of the in-order edge."""
        gaps = np.diff(_advances(self.deliveries)["time_ns"].to_numpy(np.int64))
        return float(gaps.max()) / 1e6 if len(gaps) else 0.0

    def payload_by_server(self) -> dict[str, int]:
        """Bytes of the stream that each server delivered first."""
        return {str(name): int(n) for name, n in self.deliveries.groupby("server")["fresh"].sum().items()}


@dataclass(frozen=True)
class Ends:
    """Who talks to whom on a connection that may move."""

    client: str
    client_port: int
    servers: Mapping[str, str]
    """Addresses by name."""
    service_port: int

    @classmethod
    def of(cls, run: Run) -> Ends:
        """The one connection of a run that has one."""
        return cls(run.client_ip, run.facts["client_port"], run.servers, run.facts["service_port"])


def trace(packets: pd.DataFrame, ends: Ends) -> Trace:
    """The connection in `packets`, the client's capture."""
    client, service = capture.address(ends.client), ends.service_port
    names = {capture.address(ip): name for name, ip in ends.servers.items()}
    outgoing = (packets["src"] == client) & packets["dst"].isin(list(names)) & (packets["dport"] == service)
    incoming = (packets["dst"] == client) & packets["src"].isin(list(names)) & (packets["sport"] == service)
    ours = np.where(outgoing, packets["sport"], packets["dport"]) == ends.client_port

    opening = outgoing & (packets["flags"] & (SYN | ACK) == SYN) & (packets["control"] != MIGRATE)
    handshakes = packets.loc[opening & ours, "seq"].nunique()
    others = len(packets.loc[opening & ~ours, ["sport", "seq"]].drop_duplicates())

    sent, received = packets[outgoing & ours], packets[incoming & ours]
    received = received.assign(server=received["src"].map(names))
    sent = sent.assign(server=sent["dst"].map(names))
    first = _first_seq(received)
    data = _data(received, first)
    attempts = _attempts(sent)
    acknowledgements = _acknowledgements(sent, first)
    tenures = _tenures(attempts, received, data, acknowledgements)
    deliveries = _deliver(data, tenures)
    accepts = list(zip(tenures["to"], tenures["accept_ns"].tolist(), strict=True))
    moves = _moves(tenures, deliveries)
    return Trace(deliveries, moves, acknowledgements, accepts, len(attempts), int(handshakes), others)


def progress(offset: Ints, length: Ints) -> tuple[Ints, Ints]:
    """Follow a receiver that gets `length` bytes at `offset`, packet by packet.

    Returns, for each packet, how many of its bytes are new, and up to where the stream is then complete.
    """
    ends = np.maximum.accumulate(np.where(length > 0, np.maximum(offset + length, 0), 0))
    before = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    # As long as nothing is missing; the stretches from a packet that comes too early until nothing is are gone through.
    fresh, edges = ends - before, ends.copy()
    done = 0
    for early in np.flatnonzero((offset > before) & (length > 0)).tolist():
        if early >= done:
            done = _fill(offset, length, early, int(before[early]), fresh, edges)
    return fresh, edges


def _fill(offset: Ints, length: Ints, first: int, edge: int, fresh: Ints, edges: Ints) -> int:
    """From packet `first` on, beyond the `edge`, until all is there up to the farthest byte: the packet after that."""
    parked: list[tuple[int, int]] = []  # what lies beyond the edge: disjoint (start, end), ascending
    for i in range(first, len(offset)):
        start, end = max(int(offset[i]), edge), int(offset[i] + length[i])
        fresh[i] = 0
        if end > start:
            fresh[i] = _park(parked, start, end)
            if parked[0][0] == edge:
                edge = parked.pop(0)[1]
        edges[i] = edge
        if not parked:
            return i + 1
    return len(offset)


def goodput(deliveries: pd.DataFrame, bin_ms: float) -> pd.DataFrame:
    """New payload per time bin: `time_s` (the bin's start, since the first payload), and Mbit/s by server.

    One column for each server that sent any. A bin holds the bytes that arrived in it for the first time;
    the last one may be only partly covered.
    """
    if deliveries.empty:
        return pd.DataFrame({"time_s": pd.Series(dtype=float)})
    since = deliveries["time_ns"] - deliveries["time_ns"].iloc[0]
    bins = (since // round(bin_ms * 1e6)).rename("bin")
    table = deliveries["fresh"].groupby([bins, deliveries["server"]]).sum().unstack(fill_value=0)
    table = table.reindex(range(int(bins.max()) + 1), fill_value=0) * 8 / (bin_ms * 1e3)
    table.columns.name = None
    table.insert(0, "time_s", table.index * bin_ms / 1e3)
    return table.reset_index(drop=True)


def bin_ms(duration_s: float) -> int:
    """A bin for `goodput` over the whole run: 20 to 100 ms, so that there are a few hundred."""
    return next((size for size in (20, 50) if duration_s * 1e3 / size <= 600), 100)


def resets(captures: Mapping[str, pd.DataFrame], ends: Ends, until_ns: int = _FOREVER) -> int:
    """RSTs on the connection, to or from any server, in any capture, before then; what two of them saw counts once."""
    client, servers = capture.address(ends.client), [capture.address(ip) for ip in ends.servers.values()]
    port, service = ends.client_port, ends.service_port
    found = []
    for packets in captures.values():
        rst = packets[(packets["flags"] & RST != 0) & (packets["control"] < MIGRATE) & (packets["time_ns"] < until_ns)]
        out = (rst["src"] == client) & rst["dst"].isin(servers)
        out &= (rst["sport"] == port) & (rst["dport"] == service)
        back = (rst["dst"] == client) & rst["src"].isin(servers)
        back &= (rst["dport"] == port) & (rst["sport"] == service)
        found.append(rst.loc[out | back, ["src", "dst", "seq", "ack"]])
    return len(pd.concat(found).drop_duplicates()) if found else 0


def reported(trace: Trace, reports: pd.DataFrame) -> pd.DataFrame:
    """The migrations that the agents report (as Run.migrations), each with the move it made on the wire.

    Adds `first_byte_ms`: decision to first new payload byte of the new server at the client, and the move's
    `migration_ms`, `stall_ms` and `new_ns`; all NaN or NA if the capture shows no such move. `phases` gets a last one,
    LAST_PHASE: what is left up to that byte.
    """
    if reports.empty or trace.moves.empty:
        return unseen(reports)
    figures = ["first_byte_ms", "migration_ms", "stall_ms"]
    decisions = reports[["to", "decided_ns"]].assign(report=reports.index)
    decisions["syn_ns"] = decisions["decided_ns"] - CLOCK_SLACK_NS
    made = pd.merge_asof(trace.moves, decisions, on="syn_ns", by="to").dropna(subset="report")
    made = made.drop_duplicates("report").set_index("report")
    made["first_byte_ms"] = (made["new_ns"] - made["decided_ns"].astype("int64")) / 1e6
    joined = reports.join(made[[*figures, "new_ns"]].astype({"new_ns": "Int64"}))
    joined["phases"] = joined.apply(_with_last_phase, axis=1)
    return joined


def unseen(reports: pd.DataFrame) -> pd.DataFrame:
    """As `reported`, of migrations that the wire shows nothing of."""
    figures = dict.fromkeys(["first_byte_ms", "migration_ms", "stall_ms"], np.nan)
    return reports.assign(**figures, new_ns=pd.array([pd.NA] * len(reports), "Int64"))


def _with_last_phase(move: pd.Series[Any]) -> dict[str, float]:
    phases: dict[str, float] = move["phases"]
    if not phases or np.isnan(move["first_byte_ms"]):
        return phases
    return {**phases, LAST_PHASE: move["first_byte_ms"] - sum(phases.values())}


def _first_seq(received: pd.DataFrame) -> int:
    """The sequence number of the stream's first byte: as the SYN-ACK says, else the first that there is."""
    stream = received[received["control"] < MIGRATE]
    greeting = stream.loc[stream["flags"] & (SYN | ACK) == SYN | ACK, "seq"]
    if len(greeting):
        return int(greeting.iloc[0]) + 1
    data = stream.loc[(stream["payload"] > 0) & (stream["flags"] & (SYN | RST) == 0), "seq"]
    return int(data.iloc[0]) if len(data) else 0


def _data(received: pd.DataFrame, first: int) -> pd.DataFrame:
    """The packets with stream payload: `time_ns`, `server`, `offset`, `payload`."""
    stream = received[received["control"] < MIGRATE]
    data = stream[(stream["payload"] > 0) & (stream["flags"] & (SYN | RST) == 0)]
    data = data.assign(offset=capture.unwrap(data["seq"].to_numpy(np.int64), first))
    return data[["time_ns", "server", "offset", "payload"]].reset_index(drop=True)


def _attempts(sent: pd.DataFrame) -> list[tuple[str, int]]:
    """(server, time in ns) of each MIGRATE SYN that is no repetition; after an ABORT it is a new attempt."""
    attempts: list[tuple[str, int]] = []
    aborted = True
    control = sent[sent["control"].isin([MIGRATE, ABORT])]
    for subtype, server, time in zip(control["control"], control["server"], control["time_ns"], strict=True):
        if subtype == MIGRATE and (aborted or attempts[-1][0] != server):
            attempts.append((server, int(time)))
        aborted = subtype == ABORT
    return attempts


def _acknowledgements(sent: pd.DataFrame, first: int) -> pd.DataFrame:
    """The client's ordinary acknowledgements: `time_ns`, `server`, `offset` up to which it has the stream."""
    acks = sent[(sent["control"] < MIGRATE) & (sent["flags"] & (SYN | RST | ACK) == ACK)]
    acks = acks.assign(offset=capture.unwrap(acks["ack"].to_numpy(np.int64), first))
    return acks[["time_ns", "server", "offset"]].reset_index(drop=True)


def _tenures(
    attempts: list[tuple[str, int]], received: pd.DataFrame, data: pd.DataFrame, acks: pd.DataFrame
) -> pd.DataFrame:
    """The attempts that the new server accepted, one row each: columns _TENURE_COLUMNS.

    One that left again without having sent any payload has -1 as `payload_ns`, and its successor's `handover`.
    `heard_ns`: when the client last acknowledged anything to the old server, or moved to it; `acknowledged`: up to
    where it had the stream, as it first told the new server.
    """
    accepts = received[received["control"] == ACCEPT]
    accept_times = {name: group["time_ns"].to_numpy(np.int64) for name, group in accepts.groupby("server")}
    accepted = []
    for (to, syn), end in zip(attempts, [time for _, time in attempts[1:]] + [_FOREVER], strict=False):
        accept = _first(accept_times.get(to), syn, end)
        if accept is not None:
            accepted.append((to, syn, accept))

    by_server = dict(iter(data.groupby("server")))
    times = {name: group["time_ns"].to_numpy(np.int64) for name, group in by_server.items()}
    server = str(received["server"].iloc[0]) if len(received) else ""
    told = dict(iter(acks.groupby("server")))
    heard = {name: group["time_ns"].to_numpy(np.int64) for name, group in told.items()}
    rows, begun = [], 0
    for (to, syn, accept), end in zip(accepted, [syn for _, syn, _ in accepted[1:]] + [_FOREVER], strict=False):
        payload = _first(times.get(to), accept, end)  # what comes before is late, of its last tenure
        at = by_server[to]["offset"].iloc[np.searchsorted(times[to], payload)] if payload is not None else None
        got = _acknowledged(told.get(to), accept, end, at)
        last = max(begun, _last(heard.get(server), syn))
        rows.append((server, to, syn, end, accept, -1 if payload is None else payload, at, last, got))
        server, begun = to, syn
    tenures = pd.DataFrame(rows, columns=_TENURE_COLUMNS).astype({"from": "str", "to": "str", "handover": "float64"})
    tenures["handover"] = tenures["handover"].bfill().fillna(float(2**62))  # exact: far below 2**53, or no limit
    return tenures.astype(dict.fromkeys(_TENURE_COLUMNS[2:], "int64"))


def _acknowledged(acks: pd.DataFrame | None, start: int, end: int, handover: int | None) -> int:
    """The first acknowledgement in [start, end); _FOREVER if there is none, or it cannot be true."""
    if acks is None or handover is None:
        return _FOREVER
    place = int(np.searchsorted(acks["time_ns"].to_numpy(np.int64), start))
    if place == len(acks) or acks["time_ns"].iloc[place] >= end or acks["offset"].iloc[place] < handover:
        return _FOREVER
    return int(acks["offset"].iloc[place])


def _deliver(data: pd.DataFrame, tenures: pd.DataFrame) -> pd.DataFrame:
    """`data` with `fresh` and `edge`, once what the client refused is taken off."""
    times = data["time_ns"].to_numpy(np.int64)
    end = (data["offset"] + data["payload"]).to_numpy(np.int64, copy=True)
    for server in data["server"].unique():
        turns = tenures[(tenures["from"] == server) | (tenures["to"] == server)]
        comes = (turns["to"] == server).to_numpy()
        limits = np.where(comes, _FOREVER, turns["handover"])
        mine = np.flatnonzero(data["server"] == server)
        turn = np.searchsorted(turns["syn_ns"].to_numpy(np.int64), times[mine], side="right") - 1
        mine, turn = mine[turn >= 0], turn[turn >= 0]
        is_early = comes[turn] & (times[mine] < turns["accept_ns"].to_numpy(np.int64)[turn])
        end[mine] = np.where(is_early, 0, np.minimum(end[mine], limits[turn]))
    servers = data["server"].to_numpy(object)
    doubtful, left = (np.searchsorted(times, tenures[name].to_numpy(np.int64)) for name in ("heard_ns", "syn_ns"))
    for old, since, until, limit in zip(
        tenures["from"], doubtful.tolist(), left.tolist(), tenures["acknowledged"], strict=True
    ):
        mine = since + np.flatnonzero(servers[since:until] == old)
        end[mine] = np.minimum(end[mine], limit)
    offset = data["offset"].to_numpy(np.int64)
    fresh, edge = progress(offset, end - offset)
    return data.assign(fresh=fresh, edge=edge)


def _moves(tenures: pd.DataFrame, deliveries: pd.DataFrame) -> pd.DataFrame:
    """The tenures that brought something new, as Trace has them."""
    advance = _advances(deliveries)
    times = advance["time_ns"].to_numpy(np.int64)
    of_server = {name: group["time_ns"].to_numpy(np.int64) for name, group in advance.groupby("server")}
    rows = []
    for tenure in tenures.to_dict("records"):
        new = _first(of_server.get(tenure["to"]), tenure["accept_ns"], tenure["end_ns"])
        if new is not None:
            first, last = np.searchsorted(times, [tenure["syn_ns"], new])
            stall = np.diff(times[max(first - 1, 0) : last + 1]).max(initial=0) / 1e6
            migration = (tenure["payload_ns"] - tenure["syn_ns"]) / 1e6
            rows.append(tenure | {"new_ns": new, "migration_ms": migration, "stall_ms": float(stall)})
    moves = pd.DataFrame(rows, columns=[*_TENURE_COLUMNS, "new_ns", "migration_ms", "stall_ms"])
    types = {"from": "str", "to": "str", "migration_ms": "float64", "stall_ms": "float64"}
    moves = moves.astype(types | dict.fromkeys([*_TENURE_COLUMNS[2:], "new_ns"], "int64"))
    return moves.drop(columns=["end_ns", "heard_ns", "acknowledged"])


def _first(times: Ints | None, start: int, end: int) -> int | None:
    """The first of the ascending `times` in [start, end)."""
    if times is None:
        return None
    found = times[np.searchsorted(times, start) :][:1]
    return int(found[0]) if len(found) and found[0] < end else None


def _last(times: Ints | None, end: int) -> int:
    """The last of the ascending `times` before `end`; 0 if there is none."""
    place = 0 if times is None else int(np.searchsorted(times, end))
    return int(times[place - 1]) if times is not None and place else 0


def _advances(deliveries: pd.DataFrame) -> pd.DataFrame:
    """The deliveries with which the in-order edge advanced."""
    return deliveries[np.diff(deliveries["edge"].to_numpy(np.int64), prepend=np.int64(0)) > 0]


def _park(parked: list[tuple[int, int]], start: int, end: int) -> int:
    """Add an interval to the disjoint, ascending `parked`; returns how many of its bytes were not there."""
    first = bisect_left(parked, start, key=lambda interval: interval[1])
    last, covered = first, 0
    merged_start, merged_end = start, end
    while last < len(parked) and parked[last][0] <= end:
        low, high = parked[last]
        covered += max(0, min(high, end) - max(low, start))
        merged_start, merged_end = min(merged_start, low), max(merged_end, high)
        last += 1
    parked[first:last] = [(merged_start, merged_end)]
    return end - start - covered
