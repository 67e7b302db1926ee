"""Figures of one move: its segments over time at the client, and the ladder of its messages.

Each comes wide or narrow, for a page or a phone. The functions return Matplotlib figures and touch no global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from analysis.one_move import Message, Move
from analysis.palette import LIGHT, Shape, Theme, entitle, server_colours, style
from analysis.run import CLIENT

INCHES_PER_LETTER = 0.062
"""Of the small print here, on average."""
TICKS = 600
"""Segments that follow one another are one stroke of the picture if all came in such a part of its width."""
ROW = 0.175
"""Inches of a ladder's height for each thing that happens in it, so that none covers another."""
PROPORTIONAL = 9
"""Rows of a ladder's height that are shared out in proportion to time."""
_BROKEN = (0, (4, 2.5))


def sequence(move: Move, theme: Theme = LIGHT, shape: Shape = "wide", title: str = "") -> Figure:
    """Time and sequence numbers around the move, as the client's capture shows them (after Stevens).

    A stroke is a segment of the colour of the server that sent it; crosses are those that the client's mapping refuses;
    triangles what the same server had sent before; the line is what the client acknowledges.
    """
    wide, colour = shape == "wide", server_colours(move.run.servers)
    segments, acks = move.segments, move.acknowledgements
    low, high = move.window
    with mpl.rc_context(style(theme) | {"axes.grid.axis": "both"}):
        figure = Figure(figsize=(10, 5.2) if wide else (4.6, 5.4), layout="constrained")
        axes = figure.subplots()
        axes.step(acks["ms"], acks["offset"] / 1e3, color=theme.muted, lw=1, where="post", zorder=1)
        legend: list[Artist] = []
        for server in (move.old, move.new):
            mine = segments[segments["server"] == server]
            heard, refused = mine[~mine["refused"]], mine[mine["refused"]]
            axes.add_collection(_strokes(heard, (high - low) / TICKS, colour[server]))
            axes.plot(refused["ms"], refused["offset"] / 1e3, "x", color=colour[server], ms=4, mew=0.9)
            if len(heard):
                legend.append(Line2D([], [], color=colour[server], lw=4, label=f"data of {server.upper()}"))
            if len(refused):
                label = f"of {server.upper()}, refused by the client"
                legend.append(_sign("x", label, color=colour[server]))
        again = segments[segments["again"]]
        axes.plot(again["ms"], again["offset"] / 1e3, "^", mfc="none", mec=theme.ink, ms=5, mew=0.8)
        legend += [_sign("^", "sent again", mfc="none", mec=theme.ink)] * bool(len(again))
        legend += [Line2D([], [], color=theme.muted, lw=1, label="acknowledged by the client")]
        axes.set(xlim=(low, high), xlabel="time since the decision [ms]", ylabel="relative sequence number [kB]")
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.margins(y=0.04)
        axes.autoscale_view(scalex=False)
        if move.last_ms < low:
            said = f"last data of {move.old.upper()}: {-move.last_ms:.0f} ms before the decision"
            axes.text(0.01, 0.97, said, size=8.5, color=theme.muted, va="top", transform=axes.transAxes,
                      bbox={"fc": theme.paper, "ec": "none", "pad": 1})  # fmt: skip
        marks = [(0.0, "decision"), (move.fenced_ms, f"{move.old.upper()} fenced"), (move.committed_ms, "commit"),
                 (move.new_ms, f"first new byte of {move.new.upper()}")]  # fmt: skip
        _flags(axes, [(ms, text) for ms, text in marks if ms is not None], 8.9 if wide else 3.7, theme)
        figure.legend(handles=legend, loc="outside lower left", ncols=6 if wide else 2, frameon=False,
                      handlelength=1.2, columnspacing=1.3)  # fmt: skip
        entitle(figure, title)
    return figure


def ladder(move: Move, theme: Theme = LIGHT, shape: Shape = "wide", title: str = "") -> Figure:
    """The messages of the move between client, old and new server, with their times.

    Each thing that happens has a row to itself; what height there is beyond that is in proportion to time.
    """
    wide, colour = shape == "wide", server_colours(move.run.servers)
    place = {CLIENT: 0.0, move.old: 1.0, move.new: 2.0}
    rows = _Rows(move)
    with mpl.rc_context(style(theme)):
        height = rows.height * ROW
        figure = Figure(figsize=(10 if wide else 4.6, height + (1.3 if wide else 1.6)), layout="constrained")
        axes = figure.subplots()
        left = -0.17 if wide else -0.33
        axes.set(xlim=(left - 0.02, 2.36 if wide else 2.5), ylim=(rows.height, -2.4))
        axes.set_axis_off()
        axes.hlines(rows.at, left, 2.0, theme.line, lw=0.5, zorder=0)
        digits = 1 if rows.times[-1] >= 100 else 2
        for ms, y in zip(rows.times, rows.at, strict=True):
            axes.text(
                left,
                y,
                f"{ms:.{digits}f} ".replace("-", "\u2212"),
                ha="right",
                va="center",
                size=7.5,
                color=theme.muted,
            )
        axes.text(left, -0.9, "ms since the\ndecision " if wide else "ms ", ha="right", va="bottom", size=7.5,
                  color=theme.muted)  # fmt: skip
        heads = {CLIENT: "C", move.old: f"{move.old.upper()}, old", move.new: f"{move.new.upper()}, new"}
        for host, x in place.items():
            axes.vlines(x, -0.7, rows.height - 0.4, theme.muted, lw=1.1, zorder=1)
            axes.text(x, -0.9, heads[host], ha="center", va="bottom", weight="bold", color=colour.get(host, theme.ink))
        owned = {
            move.old: (-0.7, rows.of(move.fenced_ms or 0.0)),
            move.new: (rows.of(move.committed_ms), rows.height - 0.4),
        }
        for host, (start, end) in owned.items():
            axes.vlines(place[host], start, end, colour[host], lw=4.5, zorder=1)
        for number, message in enumerate(move.messages):
            _arrow(axes, message, place, rows.at_sending[number], rows.at_arrival[number], colour, theme)
        for note, y in zip(move.notes, rows.at_note, strict=True):
            axes.plot(place[note.host], y, "o", color=theme.ink, ms=4.5, zorder=4)
            _label(axes, note.label, place[note.host], y, 1, theme, style="italic")
        figure.legend(handles=_ladder_legend(move, colour, theme), loc="outside lower left", ncols=5 if wide else 1,
                      frameon=False, fontsize=8.5, handlelength=2.2, columnspacing=1.4)  # fmt: skip
        entitle(figure, title)
    return figure


class _Rows:
    """Where on a ladder things are: each has a row of its own, also of two at the same time."""

    def __init__(self, move: Move) -> None:
        arrivals = [
            message.sent_ms if message.received_ms is None else message.received_ms for message in move.messages
        ]
        # What was sent comes before what arrived at that time, and a message that is lost ends a row below its start.
        things = [*(message.sent_ms for message in move.messages), *arrivals, *(note.ms for note in move.notes)]
        order = np.argsort(things, kind="stable")
        self.times = np.array(things)[order]
        low, high = move.window
        share = (self.times.clip(low, high) - low) / (high - low)
        self.at = np.arange(len(things)) + PROPORTIONAL * (share - share[0])
        """From the top, in order."""
        self.height = float(self.at[-1]) + 1
        of_thing = self.at[np.argsort(order)]
        count = len(arrivals)
        self.at_sending, self.at_arrival, self.at_note = np.split(of_thing, [count, 2 * count])

    def of(self, ms: float) -> float:
        """Where a time is."""
        return float(np.interp(ms, self.times, self.at))


def _arrow(
    axes: Axes, message: Message, place: dict[str, float], sent: float, arrived: float, colour: dict[str, str],
    theme: Theme,
) -> None:  # fmt: skip
    """A message from row to row, with its name where it starts."""
    start, end = place[message.src], place[message.dst]
    ink = colour[message.src] if message.evidence == "data" else theme.ink
    stopped = message.received_ms is None or message.refused
    if message.received_ms is None:
        end = start + (end - start) * 0.6
    axes.annotate(
        "", (end, arrived), (start, sent), zorder=2,
        arrowprops={"arrowstyle": "-" if stopped else "-|>", "color": ink, "lw": 1.3, "shrinkA": 0, "shrinkB": 0,
                    "ls": _BROKEN if message.evidence == "agents" else "-"},
    )  # fmt: skip
    if stopped:
        axes.plot(end, arrived, "x", color=ink, ms=7, mew=1.8, zorder=4)
    _label(axes, message.label, start, sent, 1 if end > start else -1, theme)


def _label(axes: Axes, text: str, x: float, y: float, side: int, theme: Theme, **more: Any) -> None:
    """Beside the line at `x`, just above the row `y`."""
    axes.annotate(
        text, (x, y), (7 * side, 0.5), textcoords="offset points", ha="left" if side > 0 else "right", va="bottom",
        size=8, color=theme.ink, zorder=3, bbox={"fc": theme.paper, "ec": "none", "pad": 0.4}, **more,
    )  # fmt: skip


def _ladder_legend(move: Move, colour: dict[str, str], theme: Theme) -> list[Artist]:
    """What the kinds of arrows are."""
    evidence = {message.evidence for message in move.messages}
    handles: list[Artist] = []
    if "control" in evidence:
        handles.append(Line2D([], [], color=theme.ink, lw=1.3, label="control segment, captured"))
    for server in (move.old, move.new):
        if any(message.evidence == "data" and message.src == server for message in move.messages):
            handles.append(Line2D([], [], color=colour[server], lw=1.3, label=f"data of {server.upper()}"))
    if "agents" in evidence:
        label = "control network (TLS), by the agents' events"
        handles.append(Line2D([], [], color=theme.ink, lw=1.3, ls=_BROKEN, label=label))
    return [*handles, _sign("o", "noted by an agent", color=theme.ink)]


def _strokes(segments: pd.DataFrame, width_ms: float, colour: str) -> LineCollection:
    """The segments as strokes from first to last byte; those that follow one another closely become one."""
    ms, offset, end = (segments[name].to_numpy() for name in ("ms", "offset", "end"))
    begins = [0] if len(ms) else []
    for i in range(1, len(ms)):
        if offset[i] != end[i - 1] or ms[i] - ms[begins[-1]] > width_ms:
            begins.append(i)
    lines = [
        [(ms[first], offset[first] / 1e3), (ms[after - 1], end[after - 1] / 1e3)]
        for first, after in pairwise([*begins, len(ms)])
    ]
    return LineCollection(lines, colors=colour, lw=2.6, capstyle="round", zorder=2)


def _flags(axes: Axes, marks: Sequence[tuple[float, str]], inches: float, theme: Theme) -> None:
    """Lines at these times, with their names above the axes, whose width is `inches`: none covers another's."""
    low, high = axes.get_xlim()
    taken: list[tuple[float, int]] = []
    for ms, text in sorted(marks, reverse=True):
        label = f"{text}, {ms:.1f} ms" if ms else text
        width = len(label) * INCHES_PER_LETTER / inches * (high - low)
        start = min(ms, high - width)
        row = max((row + 1 for begin, row in taken if begin < start + width), default=0)
        taken.append((start, row))
        bottom = 1.01 + 0.052 * row
        axes.plot([ms, ms], [0, bottom + 0.035 * (start == ms)], color=theme.ink, lw=0.8, zorder=1, clip_on=False,
                  transform=axes.get_xaxis_transform())  # fmt: skip
        axes.annotate(
            label, (start, bottom), (3, 0), xycoords=axes.get_xaxis_transform(), textcoords="offset points", size=8.5,
            color=theme.ink, va="bottom", annotation_clip=False, bbox={"fc": theme.paper, "ec": "none", "pad": 0.3},
        )  # fmt: skip


def _sign(marker: str, label: str, **how: Any) -> Line2D:
    return Line2D([], [], ls="", marker=marker, ms=5, label=label, **how)


def _thousands(value: float, _: object) -> str:
    """Set apart, with as many digits behind the point as there are."""
    return f"{round(value, 3):,.12g}".replace(",", "\u202f")
