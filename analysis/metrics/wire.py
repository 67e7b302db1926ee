"""What the captures show of a trial's TCP connections: what cannot come from an endpoint's word.

Of mechanisms whose connections are TCP with one flow (TRACED); QUIC is encrypted, MPTCP has subflows of its own.

wire_silence_ms       the longest time without new in-order payload at the client's interface, fault to end
wire_kept             as `kept` (analysis.metrics.rates), of in-order payload at the client's interface
wire_stall_ms         a move: the longest such time between MIGRATE SYN and the new server's first new byte (M-TCP)
migration_ms          a move: MIGRATE SYN to first payload of the new server
first_byte_ms         a move: decision to the new server's first new byte at the client's interface
commit_ms             a move: decision to commit, as the agent at the client timed both
phase.NAME_ms         a move: its phases as the agents timed them, and the rest up to that byte
duplicate_bytes       payload that reached the client and was not new, or that it refused in a move
retransmitted_bytes   payload that servers sent again, by their own captures
wire_bytes            payload from servers that reached the client, all connections
moves                 those that the wire shows: a MIGRATE SYN, and its ACCEPT (M-TCP)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import capture, migrations
from analysis.capture import ACK, MIGRATE, RST, SYN
from analysis.connections import longest, of_client
from analysis.metrics import rates
from analysis.observations import Observation
from analysis.run import CLIENT
from analysis.trials import Moments, Trial

MTCP = "mtcp"
TRACED = (MTCP, "tcp", "reconnect")


@dataclass(frozen=True)
class Wire:
    """The client's connections in its capture, in the order in which it opened them."""

    ends: list[migrations.Ends]
    traces: list[migrations.Trace]
    reported: pd.DataFrame
    """The moves (migrations.reported) of all of them."""
    retransmitted: int

    @property
    def delivered(self) -> int:
        """Bytes that arrived in order."""
        return sum(trace.delivered for trace in self.traces)


def look(trial: Trial, captures: Mapping[str, pd.DataFrame]) -> Wire | None:
    """What the captures show; None if the mechanism is not TRACED, or they are not there, or of few packets only.

    The connections are those that the clients name, else all of the client's host.
    """
    run = trial.run
    if run.mechanism not in TRACED or CLIENT not in captures or "tcpflags" in str(run.facts.get("captured", "")):
        return None
    ports = {port for client in trial.clients.values() for port in client.ports}
    sent_by = {name: _by_port(captures[name]) for name in run.servers if name in captures}
    ends, traces, again = [], [], 0
    for pair, packets in of_client(captures[CLIENT], run.client_ip).groupby(["port", "service"]):
        port, service = map(int, map(str, pair))
        if _opened(packets) and (not ports or port in ports):
            ends.append(migrations.Ends(run.client_ip, port, run.servers, service))
            traces.append(migrations.trace(packets, ends[-1]))
            sent = {name: by_port[port] for name, by_port in sent_by.items() if port in by_port}
            again += retransmitted(sent, ends[-1])
    return Wire(ends, traces, _reported(ends, traces, run.migrations), again)


def _by_port(packets: pd.DataFrame) -> dict[int, pd.DataFrame]:
    return {int(str(port)): group for port, group in packets.groupby("dport")}


def _reported(
    ends: Sequence[migrations.Ends], traces: Sequence[migrations.Trace], reports: pd.DataFrame
) -> pd.DataFrame:
    of_client = dict(iter(reports.groupby("client")))
    found = [migrations.unseen(reports.iloc[:0])]
    for each, trace in zip(ends, traces, strict=True):
        mine = of_client.get(f"{each.client}:{each.client_port}")
        if mine is not None:
            found.append(migrations.reported(trace, mine))
    return pd.concat(found, ignore_index=True)


def observe(wire: Wire, moments: Moments | None, trial: Trial) -> Iterator[Observation]:
    yield Observation("duplicate_bytes", float(sum(trace.duplicate_bytes for trace in wire.traces)), "B")
    yield Observation("retransmitted_bytes", float(wire.retransmitted), "B")
    yield Observation("wire_bytes", float(sum(trace.deliveries["payload"].sum() for trace in wire.traces)), "B")
    if trial.run.mechanism == MTCP:
        yield Observation("moves", float(sum(len(trace.accepts) for trace in wire.traces)), "")
    if moments is not None:
        yield from _over_time(wire.traces, moments, trial)
    yield from _moves(wire.reported, moments, trial)


def in_order(traces: Sequence[migrations.Trace]) -> pd.DataFrame:
    """When streams went on, and by how much: `monotonic_ns` (still the captures' clock) and `bytes`."""
    parts = [
        pd.DataFrame(
            {
                "monotonic_ns": trace.deliveries["time_ns"].to_numpy(np.int64),
                "bytes": np.diff(trace.deliveries["edge"].to_numpy(np.int64), prepend=np.int64(0)),
            }
        )
        for trace in traces
    ]
    steps = pd.concat(parts) if parts else pd.DataFrame({"monotonic_ns": [], "bytes": []}, dtype="int64")
    return steps[steps["bytes"] > 0].sort_values("monotonic_ns", kind="stable", ignore_index=True)


def retransmitted(captures: Mapping[str, pd.DataFrame], ends: migrations.Ends) -> int:
    """Payload bytes that a server sent on the connection and had sent before, by the servers' captures."""
    client, total = capture.address(ends.client), 0
    for name, ip in ends.servers.items():
        if name not in captures:
            continue
        packets = captures[name]
        ours = (packets["src"] == capture.address(ip)) & (packets["dst"] == client)
        ours &= (packets["sport"] == ends.service_port) & (packets["dport"] == ends.client_port)
        ours &= (packets["payload"] > 0) & (packets["control"] < MIGRATE) & (packets["flags"] & (SYN | RST) == 0)
        sent = packets[ours]
        if len(sent):
            offsets = capture.unwrap(sent["seq"].to_numpy(np.int64), int(sent["seq"].iloc[0]))
            lengths = sent["payload"].to_numpy(np.int64)
            # Where a server comes back it begins beyond what it had sent: never before offset 0.
            fresh, _ = migrations.progress(offsets - int(offsets.min()), lengths)
            total += int((lengths - fresh).sum())
    return total


def _opened(packets: pd.DataFrame) -> bool:
    """Whether the client opened a connection in these (connections.of_client)."""
    opening = packets["out"] & (packets["flags"] & (SYN | ACK) == SYN) & (packets["control"] != MIGRATE)
    return bool(opening.any())


def _over_time(traces: Sequence[migrations.Trace], moments: Moments, trial: Trial) -> Iterator[Observation]:
    steps = in_order(traces)
    steps = steps.assign(monotonic_ns=trial.monotonic(steps["monotonic_ns"]))
    before = rates.undisturbed(steps, moments)
    after = rates.mean_mbps(steps, moments.fault, moments.end)
    yield Observation("wire_kept", after / before if before > 0 else np.nan, "")
    if len(traces) and trial.client is not None and trial.client.requests.empty:  # else it may have asked for nothing
        times = np.append(steps["monotonic_ns"].to_numpy(np.int64), moments.end)
        times = times[times <= moments.end]
        first = int(np.searchsorted(times, moments.fault))
        start, end = longest(times[max(first - 1, 0) :])
        yield Observation("wire_silence_ms", (end - start) / 1e6, "ms")


def _moves(reported: pd.DataFrame, moments: Moments | None, trial: Trial) -> Iterator[Observation]:
    for move in reported.to_dict("records"):
        time: Any = np.nan if moments is None else moments.since_fault(trial.monotonic(move["decided_ns"]))
        for metric, column in (("wire_stall_ms", "stall_ms"), ("migration_ms", "migration_ms"),
                               ("first_byte_ms", "first_byte_ms")):  # fmt: skip
            yield Observation(metric, move[column], "ms", time, move["to"])
        # None where no move of the trial committed.
        commit_ms = (move["committed_ns"] - move["decided_ns"]) / 1e6 if move["committed"] else np.nan
        yield Observation("commit_ms", commit_ms, "ms", time, move["to"])
        for name, took in move["phases"].items() if move["committed"] else ():
            yield Observation(f"phase.{name}_ms", took, "ms", time, move["to"])
