"""Moves to another server: when they were decided, and what they cost the application.

For M-TCP the agents' events say when a move was decided and whether it committed, and the capture at the client when
the new server's first new byte came; for others the client program itself says when it decided, and which server a
delivery came from. The silence at a move is that of the application for all.

decisions        attempts to go to another server
moves            those that new bytes came of (of M-TCP: see analysis.metrics.wire)
false_moves      decided before the fault
detect_ms        the fault to the first decision from then on
move_stall_ms    a move, at the time of its decision: the longest silence from decision to the new server's first byte
switch_ms        a move: decision to the new server's first byte at the application
stall_ms         the median move_stall_ms of the moves from the fault on; stall_max_ms: the longest
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis import capture
from analysis.metrics import silence
from analysis.observations import Observation
from analysis.trials import Client, Moments, Trial

NEVER = np.iinfo(np.int64).max


def decided(trial: Trial, client: Client, wire: pd.DataFrame | None) -> pd.DataFrame:
    """Every decision of the client's, in order: `decided_ns` (CLOCK_MONOTONIC), `from`, `to`, `new_ns` (when the first
    byte of the new server could be read; NEVER).

    `wire`: the moves as analysis.migrations.reported has them, for M-TCP; else None.
    """
    if wire is not None:
        times, new = trial.monotonic(wire["decided_ns"]), wire["new_ns"]
        new_ns = np.where(new.notna(), trial.monotonic(new.fillna(0).astype("int64")), NEVER)
        return wire[["from", "to"]].assign(decided_ns=times, new_ns=new_ns).reset_index(drop=True)
    found = client.decisions
    following = [*found["decided_ns"][1:], NEVER][: len(found)]
    arrived = [
        _first(client.deliveries, to, start, end)
        for to, start, end in zip(found["to"], found["decided_ns"], following, strict=True)
    ]
    return found[["from", "to", "decided_ns"]].assign(new_ns=np.array(arrived, np.int64))


def observe(decisions: pd.DataFrame, client: Client, moments: Moments, on_wire: bool = False) -> Iterator[Observation]:
    """`on_wire`: analysis.metrics.wire counts the moves."""
    made = decisions[decisions["new_ns"] != NEVER]
    late = decisions.loc[decisions["decided_ns"] >= moments.fault, "decided_ns"]
    yield Observation("decisions", float(len(decisions)), "")
    if not on_wire:
        yield Observation("moves", float(len(made)), "")
    yield Observation("false_moves", float((decisions["decided_ns"] < moments.fault).sum()), "")
    yield Observation("detect_ms", float(late.min() - moments.fault) / 1e6 if len(late) else np.nan, "ms")
    silences, read = silence.silences(client, moments), client.deliveries["monotonic_ns"].to_numpy(np.int64)
    stalls = []
    for move in made.to_dict("records"):
        start, time = move["decided_ns"], moments.since_fault(move["decided_ns"])
        arrived = _at_or_after(read, move["new_ns"])
        if arrived is not None:
            stall = silence.longest_ms(silences, start, arrived)
            stalls += [stall] if time >= 0 else []
            yield Observation("move_stall_ms", stall, "ms", time, move["to"])
            yield Observation("switch_ms", (arrived - start) / 1e6, "ms", time, move["to"])
    yield Observation("stall_ms", float(np.median(stalls)) if stalls else np.nan, "ms")
    yield Observation("stall_max_ms", max(stalls, default=np.nan), "ms")


def _first(deliveries: pd.DataFrame, server: str, start: int, end: int) -> int:
    times = deliveries.loc[deliveries["server"] == server, "monotonic_ns"].to_numpy(np.int64)
    found = _at_or_after(times, start)
    return NEVER if found is None or found >= end else found


def _at_or_after(times: capture.Ints, start: int) -> int | None:
    """The first of the ascending `times` from `start` on."""
    place = int(np.searchsorted(times, start))
    return int(times[place]) if place < len(times) else None
