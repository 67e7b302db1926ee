"""What metrics are called where people read them, their units, and which of them say most of a scenario.

What each means exactly is said where it is measured: analysis.metrics.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """How a metric is shown."""

    name: str
    title: str
    unit: str
    meaning: str
    better: Literal["more", "less", ""] = "less"
    share: bool = False
    """Whether it is a share of something, and shown in percent."""

    def text(self, value: float | None) -> str:
        """A value of it, without the unit: three significant digits or so."""
        if value is None:
            return "–"
        value = value * 100 if self.share else value
        if value != value:
            return "–"
        if abs(value) >= 1000:
            return f"{value:,.0f}".replace(",", "\u202f")
        enough = 10 if self.share else 100
        digits = 0 if abs(value) >= enough or value == int(value) else 1 if abs(value) >= enough / 10 else 2
        return f"{value:.{digits}f}"

    @property
    def shown_unit(self) -> str:
        """The unit beside `text`."""
        return "%" if self.share else self.unit

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} [{self.shown_unit}]" if self.shown_unit else self.title


_ALL = (
    Metric("kept", "goodput kept", "", "goodput after the fault, of that before", "more", True),
    Metric(
        "request_kept", "request rate kept", "", "answers per second after the fault, of those before", "more", True
    ),
    Metric("rebuffering_s", "rebuffering", "s", "time in which play-out halted"),
    Metric("rebufferings", "rebufferings", "", "how often play-out halted"),
    Metric("silence_ms", "longest silence", "ms", "longest time after the fault in which the client waited in vain"),
    Metric("stall_ms", "stall at the move", "ms", "longest silence between decision and the new server's first byte"),
    Metric("stall_max_ms", "worst stall at a move", "ms", "the longest of a trial with several moves"),
    Metric("wire_stall_ms", "stall on the wire", "ms", "the same, in the capture at the client"),
    Metric("first_byte_ms", "decision to first new byte", "ms", "of the new server, in the capture at the client"),
    Metric("commit_ms", "decision to commit", "ms", "as the agent at the client timed both"),
    Metric("migration_ms", "MIGRATE SYN to payload", "ms", "in the capture at the client"),
    Metric("floor_ms", "floor", "ms", "what a lazy move takes at least: round trips, and the state over the wire", ""),
    Metric("floor_ratio", "stall / floor", "", "the stall, of its physical limit"),
    Metric("detect_ms", "detection", "ms", "fault to decision"),
    Metric("goodput_before_mbps", "goodput before", "Mbit/s", "undisturbed", "more"),
    Metric("goodput_after_mbps", "goodput after", "Mbit/s", "from the fault to the end", "more"),
    Metric("dip_mb", "lost goodput", "MB", "of what would have come had it stayed as before"),
    Metric("request_rate", "requests", "1/s", "answers per second, after the fault", "more"),
    Metric("request_before_p50_ms", "request before, median", "ms", "asked to last byte, undisturbed"),
    Metric("request_p50_ms", "request, median", "ms", "asked to last byte, after the fault"),
    Metric("request_p95_ms", "request, p95", "ms", "asked to last byte, after the fault"),
    Metric("request_p99_ms", "request, p99", "ms", "asked to last byte, after the fault"),
    Metric("startup_ms", "start-up", "ms", "of play-out"),
    Metric("moves", "moves", "", "to another server", ""),
    Metric("false_moves", "false moves", "", "decided before the fault"),
    Metric("connections", "connections", "", "that the client opened", ""),
    Metric("duplicate_bytes", "duplicates", "B", "payload that reached the client in vain"),
    Metric("retransmitted_bytes", "retransmitted", "B", "payload that servers sent again"),
)
METRICS = {metric.name: metric for metric in _ALL}

_HEADLINES = {
    "state-size": "first_byte_ms",
    "wan": "stall_ms",
    "recursive": "commit_ms",
    "drain": "measured.drain_s",
    "nginx": "measured.goodput_mbps",
}
_USUAL = ("kept", "request_kept", "rebuffering_s", "goodput_after_mbps", "first_byte_ms", "wire_stall_ms")
_COMPANIONS = ("silence_ms", "stall_ms", "detect_ms")
_MEASURED = "measured."
_UNITS = {
    "ms": "ms", "s": "s", "us": "µs", "mbps": "Mbit/s", "mbit": "Mbit/s", "bytes": "B", "mb": "MB", "per-s": "1/s",
}  # fmt: skip
"""What words in a scenario's own names mean."""


def named(name: str) -> Metric:
    """The metric; one that a scenario measured itself is called as that calls it."""
    if name in METRICS:
        return METRICS[name]
    words = name.removeprefix(_MEASURED).replace(".", "_").replace("per_s", "per-s").split("_")
    place = next((place for place, word in enumerate(words) if place and word in _UNITS), None)
    unit = "" if place is None else _UNITS[words.pop(place)]
    return Metric(name, " ".join(words), unit, "measured by the scenario itself", "")


def shown(present: Collection[str]) -> list[Metric]:
    """Those of the metrics `present` that a table has, in order: of METRICS, then what the scenario measured itself."""
    own = sorted(name for name in present if name.startswith(_MEASURED))
    return [METRICS[name] for name in METRICS if name in present] + [named(name) for name in own]


def headline(scenario: str, present: Collection[str]) -> Metric | None:
    """The one metric that says most of a scenario; None if it is not among those `present`."""
    measured = sorted(name for name in present if name.startswith(_MEASURED))
    candidates = (_HEADLINES.get(scenario, ""), *_USUAL, *measured)
    return next((named(name) for name in candidates if name in present), None)


def companions(present: Collection[str], but: Metric | None = None) -> list[Metric]:
    """What is shown beside the headline on the first screen."""
    return [METRICS[name] for name in _COMPANIONS if name in present and METRICS[name] != but]
