"""The report on one run: a self-contained HTML page, the figures as files, and tidy samples."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from analysis import figures, migrations, move_figures, observations, one_move, palette
from analysis.observations import Observation
from analysis.one_move import Move
from analysis.verdict import Examination, examine

_TEMPLATES = Path(__file__).parent / "templates"
_NOT_PROVENANCE = {
    "facts", "factors", "verdict", "reason", "scenario", "run_id", "realtime_minus_monotonic_ns", "sysctls",
}  # fmt: skip
"""Keys of run.json that the page shows elsewhere, or not at all."""


class Written(NamedTuple):
    """Where the report is, and the headline figures, as in summary.json."""

    path: Path
    figures: dict[str, Any]


def write(run_dir: Path | str) -> Written:
    """Judge the run; write report.html, summary.json, its pictures (.png, .svg, .pdf), samples (.parquet, .csv).

    Raises RunError if `run_dir` is no run directory. An invalid or failed run gets a report all the same;
    pictures that its captures do not allow are left out.
    """
    found = examine(run_dir)
    path = found.run.path
    move = _typical(found)
    pictures = _pictures(found, move)
    for name, (draw, title) in pictures.items():
        palette.save(draw(title=title), path / name)
    # The keys are those of the bench; what only that measures is null.
    summary = {"interrupted_calls": None, "goodput_ratio": None, **found.verdict.figures}
    (path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    observations.write(path, observations.frame(samples(found)))
    report = path / "report.html"
    report.write_text(_render(found, {name: _inline(draw) for name, (draw, _) in pictures.items()}, move))
    return Written(report, found.verdict.figures)


def samples(found: Examination) -> Iterator[Observation]:
    """What was observed: goodput_mbps (a bin each), and of each move first_byte_ms, migration_ms, stall_ms and
    phase.<name>_ms.

    `time` in s since the first byte at the client (of a move: its decision), `server` who sent or took over.
    """
    if found.trace is None or found.trace.deliveries.empty:
        return
    trace, moves = found.trace, found.moves
    bins = migrations.goodput(trace.deliveries, migrations.bin_ms(trace.duration_s))
    for time, server, value in bins.melt("time_s", var_name="server").itertuples(index=False):
        yield Observation("goodput_mbps", value, "Mbit/s", time, server)
    decided = (moves["decided_ns"] - trace.deliveries["time_ns"].iloc[0]) / 1e9
    phases = figures.phase_table(moves).add_prefix("phase.").add_suffix("_ms")
    for name, values in pd.concat([moves[["first_byte_ms", "migration_ms", "stall_ms"]], phases], axis=1).items():
        for time, server, value in zip(decided, moves["to"], values, strict=True):
            yield Observation(str(name), value, "ms", time, server)


def _typical(found: Examination) -> Move | None:
    """The move that is shown on its own."""
    if found.trace is None:
        return None
    return one_move.typical(found.run, [migrations.Ends.of(found.run)], [found.trace], found.moves, found.captures)


def _pictures(found: Examination, move: Move | None) -> dict[str, tuple[Callable[..., Figure], str]]:
    """Name -> (function of theme, shape and title that draws it, title of the file) of what can be drawn."""
    trace, servers, moves = found.trace, list(found.run.servers), found.moves
    pictures: dict[str, tuple[Callable[..., Figure], str]] = {}
    if trace is not None and trace.duration_s > 0:
        number = len(trace.moves)
        title = f"One TCP connection, moved {number} time{'' if number == 1 else 's'} between servers"
        pictures["goodput"] = (lambda **how: figures.goodput(trace, servers, **how), title)
    if len(moves) and moves["first_byte_ms"].notna().any():
        pictures["phases"] = (lambda **how: figures.phases(moves, **how), "What a move takes")
    if move is not None:
        pictures["sequence"] = (lambda **how: move_figures.sequence(move, **how), "One move, segment by segment")
        pictures["ladder"] = (lambda **how: move_figures.ladder(move, **how), "One move, message by message")
    return pictures


def _inline(draw: Callable[..., Figure]) -> dict[str, str]:
    """A picture as data URIs: wide and narrow, each in light and dark."""
    uris = {}
    for shape in palette.SHAPES:
        for name, theme in (("light", palette.LIGHT), ("dark", palette.DARK)):
            svg = palette.image(draw(theme=theme, shape=shape), "svg")
            uris[f"{shape}_{name}"] = "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
    return uris


def _render(found: Examination, pictures: dict[str, dict[str, str]], move: Move | None) -> str:
    """The HTML page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"number": _number, "size": _size}
    run, headline = found.run, found.verdict.figures
    captures = [file.name for host in run.facts["hosts"] for file in sorted(run.path.glob(f"{host}.pcap*"))]
    return environment.get_template("report.html.j2").render(
        run=run,
        verdict=found.verdict,
        figures=headline,
        pictures=pictures,
        move=move,
        servers=palette.server_colours(run.servers),
        rows=_rows(found),
        captures=captures,
        provenance=_flat({key: run.record[key] for key in run.record if key not in _NOT_PROVENANCE}),
        factors=_flat(run.record.get("factors", {})),
    )


def _rows(found: Examination) -> list[tuple[str, str, str, str, str]]:
    """The table of figures: (what, value with unit, 95 % interval, n, what it means)."""
    f = found.verdict.figures

    def plain(what: str, key: str, unit: str, meaning: str) -> tuple[str, str, str, str, str]:
        return (what, _number(f[key], unit), "", "1" if f[key] is not None else "0", meaning)

    def estimate(what: str, key: str, meaning: str) -> tuple[str, str, str, str, str]:
        low, high = f[key]["ci95"]
        interval = f"{_number(low)} to {_number(high)} ms" if low is not None else ""
        return (what, _number(f[key]["value"], "ms"), interval, str(f[key]["n"]), meaning)

    return [
        estimate("Decision to first new byte, median", "first_byte_ms_median",
                 "to the first payload byte of the new server that the client did not have"),
        estimate("Migration, median", "migration_ms_median", "MIGRATE SYN to the new server's first payload"),
        estimate("Stall at a move, median", "stall_ms_median", "longest time without new in-order payload"),
        plain("Longest gap", "max_gap_ms", "ms", "without new in-order payload, in the whole download"),
        plain("Goodput", "goodput_mbps", "Mbit/s", "in-order payload from the first byte to the last"),
        *(plain(f"Payload from {name.upper()}", f"payload_bytes_{name}", "B", "bytes it delivered first")
          for name in found.run.servers),
        plain("Payload in vain", "duplicate_bytes", "B", "sent again, or refused by the client in a move"),
        plain("Resets", "resets", "", "RST segments on the connection, in any capture"),
        plain("Handshakes", "handshakes", "", "SYNs of the client's port without the MIGRATE option"),
        plain("Other connections", "other_connections", "", "of the client's to the service meanwhile"),
    ]  # fmt: skip


def _number(value: float | None, unit: str = "") -> str:
    """Three significant digits or more, thousands set apart, with the unit; a dash for what is not known."""
    if value is None:
        return "–"
    if isinstance(value, int) or value >= 1000:
        digits = f"{value:,.0f}".replace(",", "\u202f")
    else:
        digits = f"{value:.1f}" if value >= 100 else f"{value:.2f}"
    return f"{digits} {unit}" if unit else digits


def _size(count: int | None) -> str:
    """A number of bytes in kB, MB or GB."""
    if count is None:
        return "–"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} B"


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    """A nested record as one level of "outer · inner" keys."""
    if isinstance(value, dict):
        parts = [_flat(inner, f"{prefix} · {key}" if prefix else str(key)) for key, inner in value.items()]
        return {key: text for part in parts for key, text in part.items()}
    return {prefix.replace("_", " "): ", ".join(map(str, value)) if isinstance(value, list) else str(value)}
