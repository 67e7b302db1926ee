"""The bench's figures: its parts' summaries, and what its raw samples say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from analysis import statistics
from analysis.run import read_object

_GOODPUT = "goodput_mbps"
_TRANSFER = (
    "verdict", "reason", "migrations", "hash_ok", "client_errors", "resets", "handshakes", "max_gap_ms", _GOODPUT
)  # fmt: skip
_LATENCY = ("verdict", "reason", "first_byte_ms_median", "stall_ms_median", "phases_ms_median")


def summarise(directory: Path | str) -> dict[str, Any]:
    """Write summary.json into the bench's directory, whose parts have been judged; its content.

    Raises RunError if a part or a file of samples is missing.
    """
    directory = Path(directory).resolve()
    transfer, rare, quick = (
        read_object(directory / part / "latest" / "summary.json", keys)
        for part, keys in (("transfer", _TRANSFER), ("latency", _LATENCY), ("latency-quick", _LATENCY))
    )
    figures = {key: transfer[key] for key in _TRANSFER if key != _GOODPUT}
    figures |= {
        "transfer_goodput_mbps": transfer[_GOODPUT],
        "latency_verdict": rare["verdict"],
        "first_byte_ms_median": rare["first_byte_ms_median"],
        "idle_stall_ms_median": rare["stall_ms_median"],
        "phases_ms_median": rare["phases_ms_median"],
        "latency_quick_verdict": quick["verdict"],
        "first_byte_quick_ms_median": quick["first_byte_ms_median"],
    }
    figures |= _strict(read_object(directory / "strict.json"))
    figures |= _goodput(read_object(directory / "goodput.json", ("mtcp", "plain")))
    for part, judged in (("latency", rare), ("latency-quick", quick)):
        if figures["verdict"] == "succeeded" and judged["verdict"] != "succeeded":
            figures |= {"verdict": judged["verdict"], "reason": f"{part}: {judged['reason']}"}
    if figures["verdict"] == "succeeded" and (figures["strict_violations"] or figures["interrupted_calls"]):
        figures |= {"verdict": "failed", "reason": "a strict client saw what it never should; see strict.json"}
    doubts = read_object(directory / "run.json").get("fidelity", {}).get("exceeded", [])
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
