"""The verdict on a run: from the packet captures and the byte stream, never from an endpoint's word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis import capture, migrations, statistics
from analysis.run import CLIENT, Run

Word = Literal["succeeded", "failed", "invalid"]


@dataclass(frozen=True)
class Verdict:
    """What became of a run. `figures` are the headline figures of summary.json, `verdict` among them."""

    verdict: Word
    reason: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Examination:
    """A run, its captures that can be read, by host, what they show, the moves its agents report (migrations.reported),
    and the verdict.
    """

    run: Run
    captures: Mapping[str, pd.DataFrame]
    trace: migrations.Trace | None
    moves: pd.DataFrame
    verdict: Verdict


def judge(run_dir: Path | str) -> Verdict:
    """The verdict on the run directory; RunError if it is no such thing."""
    return examine(run_dir).verdict


def examine(run_dir: Path | str) -> Examination:
    """Read the run directory and its captures and judge them; RunError if it is no run directory."""
    run = Run.load(run_dir)
    captures, defect = read_captures(run)
    defect = run.void or defect
    ends = migrations.Ends.of(run)
    resets = migrations.resets(captures, ends)
    trace = migrations.trace(captures[CLIENT], ends) if CLIENT in captures else None
    moves = migrations.reported(trace, run.migrations) if trace else pd.DataFrame()
    fault = "" if defect or trace is None else _fault(run, trace, moves, resets)
    if not defect and not fault and trace is not None and trace.has_hole:
        defect = f"the client's capture lacks bytes of the stream after offset {trace.delivered}"
    if not defect and not fault:
        defect = run.doubts
    word: Word = "invalid" if defect else "failed" if fault else "succeeded"
    asked = f"{run.asked} move{'' if run.asked == 1 else 's'}"
    reason = defect or fault or f"{asked} on the wire, every byte right, no reset, no second handshake"
    figures = {"verdict": word, "reason": reason} | _figures(run, trace, moves, resets)
    return Examination(run, captures, trace, moves, Verdict(word, reason, figures))


def read_captures(run: Run) -> tuple[dict[str, pd.DataFrame], str]:
    """The captures that can be read, by host, and the first reason why they are no good evidence, or ""."""
    captures, defects = {}, []
    for host in run.facts["hosts"]:
        path = run.path / f"{host}.pcap"
        try:
            packets = capture.read(path)
        except FileNotFoundError:
            defects.append(f"the capture {path.name} is missing")
            continue
        except (capture.CaptureError, OSError) as error:
            defects.append(str(error))
            continue
        captures[host] = packets
        if packets.attrs["truncated"]:
            defects.append(f"the capture {path.name} ends inside a packet")
    drops = run.facts.get("capture_drops", {})
    defects += [f"the capture at {host} dropped {n} packets" for host, n in drops.items() if n]
    return captures, defects[0] if defects else ""


def _fault(run: Run, trace: migrations.Trace, moves: pd.DataFrame, resets: int) -> str:
    """The first thing that is wrong with the run, or ""."""
    facts = run.facts
    if facts.get("client_exit") != 0:
        return f"the client exited with {facts.get('client_exit')}"
    if not _hash_ok(run):
        return "the client received other bytes than were sent: the hashes differ"
    if resets:
        return f"{resets} RST on the connection"
    if trace.handshakes != 1:
        return f"{trace.handshakes} handshakes on the client's port, not one"
    if trace.other_connections:
        return f"the client opened {trace.other_connections} more connections to the service"
    silent = [name for name in _expected_servers(run) if not trace.payload_by_server().get(name)]
    if silent:
        return f"no payload from {silent[0]} reached the client"
    unseen = moves[moves["committed"] & moves["first_byte_ms"].isna()]
    if len(unseen):
        number = unseen.index[0] + 1
        return f"migration {number} is reported, but no new payload of {unseen['to'].iloc[0]} followed"
    if len(trace.moves) != run.asked:
        unfinished = moves.loc[~moves["committed"], "outcome"].dropna()
        why = f" (first outcome otherwise: {unfinished.iloc[0]})" if len(unfinished) else ""
        return f"moves on the wire: {len(trace.moves)}, asked for: {run.asked}{why}"
    return ""


def _expected_servers(run: Run) -> list[str]:
    """The servers that must have sent payload: those that reported moves name; all, if none is reported."""
    named = set(run.migrations["from"]) | set(run.migrations["to"])
    return [name for name in run.servers if name in named or (run.asked and not named)]


def _hash_ok(run: Run) -> bool:
    """Whether the client has every byte: by the hash, or by `every_byte_right` of a client that checks each itself."""
    if "every_byte_right" in run.facts:
        return bool(run.facts["every_byte_right"])
    received, expected = run.facts.get("received_sha256"), run.facts.get("expected_sha256")
    return bool(expected) and received == expected


def _figures(run: Run, trace: migrations.Trace | None, moves: pd.DataFrame, resets: int) -> dict[str, Any]:
    """The headline figures; those that need the client's capture are None without it. Times in ms."""
    figures: dict[str, Any] = {
        "hash_ok": _hash_ok(run),
        "client_errors": int(run.facts.get("client_exit") != 0),
        "resets": resets,
        "migrations_asked": run.asked,
    }
    payload: Mapping[str, int] = trace.payload_by_server() if trace else {}
    seconds = trace.duration_s if trace else 0.0
    columns: dict[str, Any] = {
        name: moves[name] if trace else [] for name in ("first_byte_ms", "migration_ms", "stall_ms")
    }
    return figures | {
        "migrations": len(trace.moves) if trace else None,
        "handshakes": trace.handshakes if trace else None,
        "other_connections": trace.other_connections if trace else None,
        "max_gap_ms": trace.max_gap_ms if trace else None,
        "first_byte_ms_median": statistics.median(columns["first_byte_ms"]).as_dict(),
        "migration_ms_median": statistics.median(columns["migration_ms"]).as_dict(),
        "stall_ms_median": statistics.median(columns["stall_ms"]).as_dict(),
        "phases_ms_median": _phases(moves),
        "goodput_mbps": trace.delivered * 8 / seconds / 1e6 if trace and seconds else None,
        "duration_s": seconds if trace else None,
        "duplicate_bytes": trace.duplicate_bytes if trace else None,
        **{f"payload_bytes_{name}": payload.get(name, 0) if trace else None for name in run.servers},
    }


def _phases(moves: pd.DataFrame) -> dict[str, Any]:
    """The median of each phase, in their order."""
    phases = pd.DataFrame(list(moves["phases"])) if len(moves) else pd.DataFrame()
    return {str(name): statistics.median(phases[name]).as_dict() for name in phases}


__all__ = ["Examination", "Verdict", "examine", "judge", "read_captures"]
