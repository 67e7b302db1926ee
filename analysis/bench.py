"""The bench's figures: its parts' summaries, and what its raw samples say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis import statistics
from analysis.run import RunError

_TRANSFER = ("verdict", "reason", "migrations", "hash_ok", "client_errors", "resets", "handshakes", "max_gap_ms")


def summarise(directory: Path | str) -> dict[str, Any]:
    """Write summary.json into the bench's directory, whose parts have been judged; its content.

    Raises RunError if a part or a file of samples is missing.
    """
    directory = Path(directory).resolve()
    transfer, rare, quick = (
        _read(directory / part / "latest" / "summary.json") for part in ("transfer", "latency", "latency-quick")
    )
    figures = {key: transfer[key] for key in _TRANSFER}
    figures |= {
        "transfer_goodput_mbps": transfer["goodput_mbps"],
        "latency_verdict": rare["verdict"],
        "first_byte_ms_median": rare["first_byte_ms_median"],
        "idle_stall_ms_median": rare["stall_ms_median"],
        "phases_ms_median": rare["phases_ms_median"],
        "latency_quick_verdict": quick["verdict"],
        "first_byte_quick_ms_median": quick["first_byte_ms_median"],
    }
    figures |= _strict(_read(directory / "strict.json")) | _goodput(_read(directory / "goodput.json"))
    for part, judged in (("latency", rare), ("latency-quick", quick)):
        if figures["verdict"] == "succeeded" and judged["verdict"] != "succeeded":
            figures |= {"verdict": judged["verdict"], "reason": f"{part}: {judged['reason']}"}
    if figures["verdict"] == "succeeded" and (figures["strict_violations"] or figures["interrupted_calls"]):
        figures |= {"verdict": "failed", "reason": "a strict client saw what it never should; see strict.json"}
    doubts = _read(directory / "run.json").get("fidelity", {}).get("exceeded", [])
    if figures["verdict"] == "succeeded" and doubts:
        figures |= {"verdict": "invalid", "reason": "; ".join(doubts)}
    (directory / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _strict(modes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Over all modes: moves; calls that were interrupted, cut short or told of an error; clients that complained."""
    counted = ("interrupted", "short_counts", "error_events")
    return {
        "strict_migrations": sum(mode["moved"] for mode in modes.values()),
        "interrupted_calls": sum(mode[count] for mode in modes.values() for count in counted),
        "strict_violations": sum(mode["exit"] != 0 for mode in modes.values()),
    }


def _goodput(mbps: dict[str, list[float]]) -> dict[str, Any]:
    """`mbps`: of each kind, its repetitions in order; those of the same number were made one after the other."""
    return {
        "goodput_ratio": statistics.ratio(mbps["mtcp"], mbps["plain"]).as_dict(),
        "goodput_mtcp_mbps": statistics.median(mbps["mtcp"]).as_dict(),
        "goodput_plain_mbps": statistics.median(mbps["plain"]).as_dict(),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{path} is missing: the bench did not end, or its parts have not been judged") from None
    return content
