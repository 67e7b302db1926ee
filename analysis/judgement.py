"""The verdict on a trial of an experiment, and its metrics: from captures and byte streams.

    invalid    the harness did not get to its end, the machine was not up to it, a capture lost packets
    failed     a client got wrong bytes or an error; with M-TCP also: an RST or a second handshake before the client's
               own end, a move that is reported and of which the wire shows nothing
    succeeded  else, whatever the goodput

That plain TCP fails when its server dies is a result, not a fault of the run; so its metrics count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from analysis import capture, migrations, observations, verdict
from analysis.capture import FIN, MIGRATE
from analysis.metrics import floor, moves, playout, rates, requests, silence, wire
from analysis.metrics.wire import MTCP
from analysis.observations import Observation
from analysis.run import CLIENT, RunError
from analysis.trials import Trial

Word = Literal["succeeded", "failed", "unsupported", "invalid"]

LAST_WORDS_NS = 500_000_000
"""A server that had the connection no longer than this, until the client left it or ended, may have been silent."""
CLOCK_SLACK_NS = 1_000_000
"""How far the clocks of captures and programs are taken to be apart at most."""
HEADLINES = (
    "kept", "silence_ms", "stall_ms", "detect_ms", "floor_ratio", "goodput_before_mbps", "goodput_after_mbps",
    "request_p99_ms", "request_kept", "rebuffering_s", "moves",
)  # fmt: skip
"""Metrics of summary.json, null where they were not observed."""


@dataclass(frozen=True)
class Judgement:
    """What became of a trial. `observed` as observations.frame."""

    verdict: Word
    reason: str
    observed: pd.DataFrame


def judge(run_dir: Path | str) -> Judgement:
    """Judge the run and write its samples.parquet, samples.csv and summary.json; RunError if it is no run.

    run.json stays as it is: the runner notes there what the verdict is.
    """
    trial = Trial.load(run_dir)
    try:
        found = examine(trial)
    except RunError as error:
        found = Judgement("invalid", f"the trial left what makes no sense: {error}", observations.frame([]))
    directory = Path(run_dir)
    observations.write(directory, found.observed)
    once = found.observed[found.observed["time"].isna()].drop_duplicates("metric").set_index("metric")["value"]
    figures = {name: float(once[name]) if name in once else None for name in HEADLINES}
    summary = {"schema_version": observations.SCHEMA_VERSION, "verdict": found.verdict, "reason": found.reason}
    (directory / "summary.json").write_text(json.dumps(summary | figures, indent=2) + "\n")
    return found


def judge_all(run_dirs: Sequence[Path]) -> Iterator[tuple[Path, Judgement]]:
    """Judge many runs, as many at a time as there are processors; each as soon as it and those before are done."""
    if len(run_dirs) == 1:
        yield run_dirs[0], judge(run_dirs[0])
        return
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from zip(run_dirs, pool.map(judge, run_dirs), strict=True)


def examine(trial: Trial) -> Judgement:
    """The same, and nothing is written."""
    nothing = observations.frame([])
    if trial.unsupported:
        return Judgement("unsupported", str(trial.run.record.get("reason", "")), nothing)
    if trial.run.void or trial.unfinished:
        return Judgement("invalid", trial.run.void or trial.unfinished, nothing)
    captures, defect = verdict.read_captures(trial.run)
    seen = wire.look(trial, captures)
    observed = observations.frame(observe(trial, seen))
    fault = "" if defect else _fault(trial, seen, captures)
    if not defect and not fault:
        defect = _hole(trial, seen) or trial.run.doubts
    word: Word = "invalid" if defect else "failed" if fault else "succeeded"
    return Judgement(word, defect or fault or "every byte right, and no client saw an error", observed)


def observe(trial: Trial, seen: wire.Wire | None) -> Iterator[Observation]:
    """All metrics of the trial's client; `seen`: what the captures show, if they can."""
    client, moments = trial.client, trial.moments
    for name, value in trial.measured.items():
        yield Observation(f"measured.{name}", value, "")
    if client is not None:
        yield Observation("connections", float(len(client.ports)), "")
        yield Observation("bytes", float(client.report.get("bytes", 0)), "B")
    if seen is not None:
        yield from wire.observe(seen, moments, trial)
    stall: float | None = None
    if client is not None and moments is not None and not client.recorded and not client.playout.empty:
        # A player that others wrote: what it read nobody knows, but what it showed.
        yield from playout.observe(client.playout, client.requests, moments)
    if client is not None and moments is not None and client.recorded:
        yield from rates.observe(client.deliveries, moments, paced=not client.playout.empty)
        yield from silence.observe(client, moments)
        if not client.requests.empty and client.playout.empty:
            yield from requests.observe(client.requests, moments)
        if not client.playout.empty:
            yield from playout.observe(client.playout, client.requests, moments)
        moved = seen.reported if seen is not None and trial.run.mechanism == MTCP else None
        decisions = moves.decided(trial, client, moved)
        for observation in moves.observe(decisions, client, moments, moved is not None):
            stall = observation.value if observation.metric == "stall_ms" else stall
            yield observation
    elif seen is not None and len(seen.reported):
        # No record of deliveries: what the wire shows is what there is.
        stall = float(seen.reported["stall_ms"].median())
        yield Observation("stall_ms", stall, "ms")
    yield from floor.observe(floor.of_trial(trial.run.factors, trial.links), stall)


def _fault(trial: Trial, seen: wire.Wire | None, captures: Mapping[str, pd.DataFrame]) -> str:
    """The first thing that is wrong with the trial, or ""."""
    for client in trial.clients.values():
        if not client.bytes_right:
            return f"{client.name} received other bytes than were sent"
        if client.error:
            return f"{client.name}: {client.error}"
    if trial.run.mechanism != MTCP or seen is None:
        return ""
    for ends, trace in zip(seen.ends, seen.traces, strict=True):
        if trace.handshakes != 1:
            return f"{trace.handshakes} handshakes on the client's port {ends.client_port}, not one"
        until = _own_end(trial, ends, captures[CLIENT])
        if resets := migrations.resets(captures, ends, until):
            return f"{resets} RST on the connection before the client's end"
        if fault := _unseen(trace, ends, seen.reported, captures, until - LAST_WORDS_NS):
            return fault
    return ""


def _own_end(trial: Trial, ends: migrations.Ends, packets: pd.DataFrame) -> int:
    """When the client ended the connection by itself (the captures' clock): with the trial, or by its FIN before."""
    out = (packets["src"] == capture.address(ends.client)) & (packets["sport"] == ends.client_port)
    fins = packets.loc[out & (packets["flags"] & FIN != 0) & (packets["control"] < MIGRATE), "time_ns"]
    first = int(fins.iloc[0]) if len(fins) else int(np.iinfo(np.int64).max)
    if trial.moments is None:
        return first
    return min(first, int(trial.wall(trial.moments.end)) - CLOCK_SLACK_NS)


def _unseen(
    trace: migrations.Trace,
    ends: migrations.Ends,
    reported: pd.DataFrame,
    captures: Mapping[str, pd.DataFrame],
    until: int,
) -> str:
    """What the agents report of the connection's moves, and the wire does not show; of those decided until then.

    Each has an ACCEPT; and payload from its server, unless the next was decided before that can have come, or the
    network lost it: of a connection without a round-trip time yet, it is sent again only after a second.
    """
    mine = reported[reported["client"] == f"{ends.client}:{ends.client_port}"]
    mine = mine[mine["committed"]]
    following = [*mine["decided_ns"][1:], until][: len(mine)]
    for move, left in zip(mine.to_dict("records"), following, strict=True):
        start, to = move["decided_ns"] - migrations.CLOCK_SLACK_NS, move["to"]
        accepted = next((time for server, time in trace.accepts if server == to and time > start), None)
        if accepted is None and start < until:
            return f"a move to {to} is reported, but no ACCEPT of it reached the client"
        if accepted is None or accepted + LAST_WORDS_NS >= left or not pd.isna(move["new_ns"]):
            continue
        if not _has_sent(captures[to], ends, start, left):
            return f"a move is reported, but no payload from {to} reached the client"
    return ""


def _has_sent(packets: pd.DataFrame, ends: migrations.Ends, start: int, end: int) -> bool:
    """Whether the server whose capture this is sent payload on the connection in [start, end)."""
    out = (packets["dst"] == capture.address(ends.client)) & (packets["dport"] == ends.client_port)
    out &= (packets["sport"] == ends.service_port) & (packets["control"] < MIGRATE) & (packets["payload"] > 0)
    return bool(packets.loc[out, "time_ns"].between(start, end, inclusive="left").any())


def _hole(trial: Trial, seen: wire.Wire | None) -> str:
    """Whether the client's capture lacks bytes that the application read, or ""."""
    if seen is None or not seen.traces:
        return ""
    read = sum(int(client.report.get("bytes", 0)) for client in trial.clients.values())
    if seen.delivered >= read:
        return ""
    return f"the client's capture lacks bytes: {seen.delivered} in order, the application read {read}"
