"""The verdict on a round of a soak: many connections under loss, each judged by the captures and its own client.

Every move that an agent reports must be on the wire; no connection may have a RST or a second handshake; every client
must have ended well, with every byte right. A move that did not take place is no fault if it says why: its connection
has stayed where it was, whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import capture, losses
from analysis.connections import Connection, closings, connections, resets
from analysis.run import CLIENT, Run, RunError, read_object

AFTERMATH_NS = 20_000_000
"""How long after its commit what happens is still of the move."""
SLACK_NS = 1_000_000
"""By how much a capture's clock may differ from the agents'."""
PERCENTILES = (50, 90, 99, 99.9, 100)
LINES = 16
"""Of a gap's explanation, at most."""
_SUMMED = ("connections", "clients", "clients_wrong", "resets", "packets", "packets_lost")
_OF_A_ROUND = ("verdict", "reason", "lost_by_kind", "worst", *_SUMMED)


def judge_round(run_dir: Path | str) -> dict[str, Any]:
    """Judge the round in this directory; writes summary.json and samples, a row per move. RunError if it is no round.

    facts of run.json: `hosts` (a client's name begins with "client"), `control` ({server: control address}),
    `control_port`, `capture_drops`, `loss` ({passed, lost}), `clients` (what each program of a client came to:
    `workload`, `port`, `ok`, `said`).
    """
    run = Run.load(run_dir, ("hosts", "clients", "loss", "control", "control_port", "capture_drops"))
    facts = run.facts
    addresses = {name: ip for name, ip in facts["hosts"].items() if name.startswith(CLIENT)}
    packets = {name: capture.read(run.path / f"{name}.pcap") for name in facts["hosts"]}
    found = [each for name, ip in addresses.items() for each in connections(packets[name], ip)]
    lost = _lost(run)
    moves = _moves(run, {each.ends: each for each in found}, lost)
    rsts = 0
    for name, ip in addresses.items():
        closed = closings(packets[name], ip)
        rsts += len(set().union(*(resets(each, ip, closed) for each in packets.values())))
    defect = run.void or _defect(run, packets)
    fault = _fault(run, found, moves, rsts)
    if not defect and not fault:
        defect = run.doubts
    word = "invalid" if defect else "failed" if fault else "succeeded"
    moved = moves["outcome"] == "moved"
    reason = defect or fault or f"{int(moved.sum())} moves on the wire, every byte right, no reset, no second handshake"
    figures = {
        "verdict": word,
        "reason": reason,
        "connections": len(found),
        "clients": len(facts["clients"]),
        "clients_wrong": sum(not client["ok"] for client in facts["clients"]),
        "resets": rsts,
        "packets": facts["loss"]["passed"],
        "packets_lost": facts["loss"]["lost"],
        "lost_by_kind": {str(kind): int(count) for kind, count in lost["kind"].value_counts().items()},
        "worst": _worst(found, moves, lost, _services(facts)),
    } | _figures(moves)
    moves.to_parquet(run.path / "samples.parquet", index=False)
    moves.to_csv(run.path / "samples.csv", index=False)
    (run.path / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def summarise(directory: Path | str, part: str) -> dict[str, Any]:
    """Put together the judged rounds under <directory>/<part>; writes summary.json and samples. RunError without."""
    directory = Path(directory).resolve()
    paths = sorted(path.parent for path in (directory / part).glob("*/summary.json") if not path.parent.is_symlink())
    if not paths:
        raise RunError(f"{directory / part} has no judged rounds")
    rounds = [read_object(path / "summary.json", _OF_A_ROUND) for path in paths]
    moves = pd.concat([_read_moves(path / "samples.parquet").assign(round=path.name) for path in paths])
    bad = [(path, each) for path, each in zip(paths, rounds, strict=True) if each["verdict"] != "succeeded"]
    figures: dict[str, Any] = {
        "verdict": bad[0][1]["verdict"] if bad else "succeeded",
        "reason": f"{bad[0][0].name}: {bad[0][1]['reason']}" if bad else f"{len(rounds)} rounds, all succeeded",
        "rounds": len(rounds),
        "rounds_wrong": len(bad),
    }
    for key in _SUMMED:
        figures[key] = sum(each[key] for each in rounds)
    kinds = pd.DataFrame([each["lost_by_kind"] for each in rounds]).sum().astype(int).sort_values(ascending=False)
    figures["lost_by_kind"] = {str(kind): int(count) for kind, count in kinds.items()}
    figures["worst"] = max((each["worst"] for each in rounds), key=lambda worst: float(worst["gap_ms"]))
    figures |= _figures(moves)
    moves.to_parquet(directory / "samples.parquet", index=False)
    moves.to_csv(directory / "samples.csv", index=False)
    (directory / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _read_moves(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _lost(run: Run) -> pd.DataFrame:
    path = run.path / "lost.pcap"
    facts = run.facts
    names = {ip: name for name, ip in facts["hosts"].items()} | {ip: name for name, ip in facts["control"].items()}
    packets = capture.read(path)
    return losses.described(packets, names, facts["control_port"])


def _services(facts: dict[str, Any]) -> dict[int, str]:
    """The workloads by their services' ports."""
    return {client["port"]: client["workload"] for client in facts["clients"]}


def _moves(run: Run, found: dict[tuple[str, int], Connection], lost: pd.DataFrame) -> pd.DataFrame:
    """A row per move that an agent reports."""
    offset = int(run.record["realtime_minus_monotonic_ns"])
    services = _services(run.facts)
    rows = []
    for event in run.events:
        if event.get("event") != "migration":
            continue
        decided = event["decided_ns"] + offset
        moved = event["outcome"] == "moved"
        ended = (event["committed_ns"] if moved else event["monotonic_ns"]) + offset
        connection = found.get((event["connection"], event["service_port"]))
        row = {
            "workload": services.get(connection.service_port, "?") if connection else "?",
            "connection": event["connection"],
            "service_port": event["service_port"],
            **{key: event[key] for key in ("attempt", "from", "to", "outcome", "reason")},
            "decided_ns": decided,
            "handshake_ms": (ended - decided) / 1e6,
            "on_wire": connection is not None and _on_wire(connection, run.servers[event["to"]], decided, ended),
            "gap_ms": 0.0,
            "cause": "",
        }
        if connection is not None:
            start, end = connection.gap(decided, ended + AFTERMATH_NS)
            row["gap_ms"] = (end - start) / 1e6
            guilty = losses.during(lost, connection, min(start or decided, decided), max(end, ended))
            row["cause"] = losses.cause(row["gap_ms"], row["handshake_ms"], guilty)
        rows.append(row)
    columns = [
        "workload",
        "connection",
        "service_port",
        "attempt",
        "from",
        "to",
        "outcome",
        "reason",
        "decided_ns",
        "handshake_ms",
    ]
    return pd.DataFrame(rows, columns=[*columns, "on_wire", "gap_ms", "cause"])


def _on_wire(connection: Connection, to: str, decided: int, ended: int) -> bool:
    number = capture.address(to)
    return any(
        server == number and decided - SLACK_NS <= time <= ended + SLACK_NS for time, server in connection.commits
    )


def _defect(run: Run, packets: dict[str, pd.DataFrame]) -> str:
    """Why the captures are no good evidence, or ""."""
    dropped = [f"the capture at {host} dropped {n} packets" for host, n in run.facts["capture_drops"].items() if n]
    cut = [f"the capture at {host} ends inside a packet" for host, each in packets.items() if each.attrs["truncated"]]
    return next(iter([*dropped, *cut]), "")


def _fault(run: Run, found: list[Connection], moves: pd.DataFrame, rsts: int) -> str:
    """The first thing that is wrong with the round, or ""."""
    wrong = [client for client in run.facts["clients"] if not client["ok"]]
    if wrong:
        return f"{wrong[0]['workload']} of {wrong[0]['host']}: {wrong[0]['said']}"
    if rsts:
        return f"{rsts} RST on connections"
    twice = [each for each in found if each.handshakes != 1]
    if twice:
        return f"{twice[0].ends[0]}: {twice[0].handshakes} handshakes"
    moved = moves[moves["outcome"] == "moved"]
    unseen = moved[~moved["on_wire"].astype(bool)]
    if len(unseen):
        return f"{unseen['connection'].iloc[0]}: attempt {unseen['attempt'].iloc[0]} is reported, but not on the wire"
    commits = sum(len(each.commits) for each in found)
    if commits != len(moved):
        return f"{commits} moves on the wire, {len(moved)} reported"
    asked = run.record.get("factors", {}).get("migrations", 0)
    return f"{len(moved)} moves, asked for {asked}" if len(moved) < asked else ""


def _worst(
    found: list[Connection], moves: pd.DataFrame, lost: pd.DataFrame, services: dict[int, str]
) -> dict[str, Any]:
    """The longest gap at any client at any time, around a move or not, and what happened before and meanwhile."""
    if not found:
        return {"gap_ms": 0.0, "connection": "", "workload": "", "timeline": []}
    connection = max(found, key=lambda each: each.worst_gap[1] - each.worst_gap[0])
    start, end = connection.worst_gap
    meanwhile = losses.during(lost, connection, start, end)
    own = meanwhile["kind"] != losses.CONTROL_CONNECTION
    lines = [(time, f"lost: {text}") for time, text in zip(*_columns(meanwhile[own]), strict=True)]
    lines += [(time, f"lost: {text}") for time, text in zip(*_columns(meanwhile[~own].tail(LINES // 3)), strict=True)]
    name, service = connection.ends
    for move in moves[(moves["connection"] == name) & (moves["service_port"] == service)].to_dict("records"):
        ended = move["decided_ns"] + round(move["handshake_ms"] * 1e6)
        if move["decided_ns"] < end and ended > start - losses.BEFORE_NS:
            what = f"move {move['attempt']} {move['from']}→{move['to']}"
            lines += [(move["decided_ns"], f"{what} decided"), (ended, f"{what}: {move['outcome']}")]
    lines.sort()
    text = [f"{(time - start) / 1e6:+.1f} ms {what}" for time, what in lines]
    return {
        "gap_ms": (end - start) / 1e6,
        "connection": name,
        "workload": services.get(service, "?"),
        "timeline": text[:LINES] + [f"and {len(text) - LINES} more"] * (len(text) > LINES),
    }


def _columns(lost: pd.DataFrame) -> tuple[list[int], list[str]]:
    return lost["time_ns"].tolist(), lost["text"].tolist()


def _figures(moves: pd.DataFrame) -> dict[str, Any]:
    """What the rows of moves say, for one round and for all."""
    moved = moves[moves["outcome"] == "moved"]
    kept = moves[moves["outcome"] != "moved"]
    gaps, handshakes = moved["gap_ms"].to_numpy(np.float64), moved["handshake_ms"].to_numpy(np.float64)
    return {
        "migrations": len(moved),
        "kept": len(kept),
        "kept_reasons": {str(reason): int(count) for reason, count in kept["reason"].value_counts().items()},
        "migrations_by_workload": {str(w): int(count) for w, count in moved["workload"].value_counts().items()},
        "gap_ms": {f"p{p:g}": round(float(np.percentile(gaps, p)), 3) for p in PERCENTILES if len(gaps)},
        "handshake_ms": {f"p{p:g}": round(float(np.percentile(handshakes, p)), 3) for p in PERCENTILES if len(gaps)},
        "causes": {
            str(cause): {"moves": len(group), "gap_ms_max": round(float(group["gap_ms"].max()), 1)}
            for cause, group in sorted(moved.groupby("cause"), key=lambda item: -len(item[1]))
        },
        "worst_kept": round(float(kept["gap_ms"].max()), 1) if len(kept) else None,
    }
