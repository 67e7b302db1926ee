"""The figures: goodput by sending server, and what a move is made of.

Each figure comes wide or narrow, for a page or a phone. The functions return Matplotlib figures and touch no global
state.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from analysis import migrations, statistics
from analysis.migrations import Trace
from analysis.palette import ACCENT, LIGHT, Shape, Theme, entitle, heading, server_colours, style

ZOOM_MOVES = 8
"""Moves in the second panel, if there are many."""


def goodput(
    trace: Trace, servers: Iterable[str], theme: Theme = LIGHT, shape: Shape = "wide", title: str = ""
) -> Figure:
    """Goodput over time, coloured by sending server: the whole download, and some of its moves magnified.

    The height is the goodput of a time bin; the colour changes where the new server's first new byte arrives.
    """
    colour, wide = server_colours(servers), shape == "wide"
    start = int(trace.deliveries["time_ns"].iloc[0])
    moments = (trace.moves["new_ns"].to_numpy() - start) / 1e9
    with mpl.rc_context(style(theme)):
        figure = Figure(figsize=(10, 4.7) if wide else (4.6, 5), layout="constrained")
        panels = figure.subplots(2 if len(moments) else 1, squeeze=False)[:, 0]
        whole, closest = panels[0], panels[-1]
        bin_ms: float = migrations.bin_ms(trace.duration_s)
        _area(whole, trace, start, bin_ms, (0.0, trace.duration_s), colour)
        heading(whole, "The whole download" + (f", in bins of {bin_ms} ms" if wide else ""))
        if closest is not whole:
            window = _window(moments, trace.duration_s)
            bin_ms = _fine_bin_ms(trace.deliveries, window)
            _area(closest, trace, start, bin_ms, window, colour)
            _mark_window(whole, window, theme)
            _mark_moves(closest, moments, trace.moves["stall_ms"], window, 0.05 if wide else 0.115, theme)
            heading(closest, f"Magnified, with the stall at each move; bins of {bin_ms} ms")
        closest.set_xlabel("time since the first byte [s]")
        sent = [name for name in colour if name in set(trace.deliveries["server"])]
        handles = [Patch(color=colour[name], label=f"sent by {name.upper()}") for name in sent]
        whole.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(handles), frameon=False,
            borderaxespad=0.1, handlelength=1, columnspacing=1.2,
        )  # fmt: skip
        entitle(figure, title)
    return figure


def phases(moves: pd.DataFrame, theme: Theme = LIGHT, shape: Shape = "wide", title: str = "") -> Figure:
    """What a move is made of (medians, end to end), and how long it takes from decision to first new byte.

    `moves` as migrations.reported returns them.
    """
    with mpl.rc_context(style(theme)):
        wide = shape == "wide"
        figure = Figure(figsize=(10, 3.5) if wide else (4.6, 6.2), layout="constrained")
        left, right = figure.subplots(*((1, 2) if wide else (2, 1)))
        waterfall(left, phase_table(moves), theme, wide)
        heading(left, "Phases of a move (line: middle half)")
        _distribution(right, moves["first_byte_ms"].dropna(), theme)
        entitle(figure, title)
    return figure


def phase_table(moves: pd.DataFrame) -> pd.DataFrame:
    """Phase durations in ms: a row per reported move, a column per phase in the order of the events."""
    names = dict.fromkeys(name for each in moves["phases"] for name in each)
    return pd.DataFrame([{name: each.get(name) for name in names} for each in moves["phases"]], dtype=float)


def _area(
    axes: Axes, trace: Trace, start: int, bin_ms: float, limits: tuple[float, float], colour: dict[str, str]
) -> None:
    """Goodput as steps within `limits` (s), filled with the colour of the server that has the connection."""
    total = migrations.goodput(trace.deliveries, bin_ms).drop(columns="time_s").sum(axis=1).to_numpy(copy=True)
    steps = np.arange(len(total) + 1) * bin_ms / 1e3
    if len(total) > 1:  # the last bin is shorter: its goodput is that of the last two together
        total[-2:] = total[-2:].sum() * steps[1] / (trace.duration_s - steps[-3])
    owners = [str(trace.deliveries["server"].iloc[0]), *trace.moves["to"]]
    turns = np.concatenate([[0.0], (trace.moves["new_ns"].to_numpy() - start) / 1e9, [trace.duration_s]])
    highest = 0.0
    for owner, low, high in zip(owners, turns, turns[1:], strict=False):
        low, high = max(low, limits[0]), min(high, limits[1])
        if low < high:
            edges = np.concatenate([[low], steps[(steps > low) & (steps < high)], [high]])
            middle = (edges[1:] + edges[:-1]) / 2
            heights = total[np.searchsorted(steps, middle) - 1]
            axes.stairs(heights, edges, fill=True, color=colour[owner], lw=0)
            highest = max(highest, float(heights.max()))
    axes.set(xlim=limits, ylim=(0, highest * 1.2 or 1), ylabel="goodput [Mbit/s]")
    axes.set_yticks([tick for tick in MaxNLocator(4).tick_values(0, highest) if tick <= highest])


def _mark_window(axes: Axes, window: tuple[float, float], theme: Theme) -> None:
    """A bracket over the stretch that the lower panel magnifies."""
    across = axes.get_xaxis_transform()
    axes.plot([window[0], *window, window[1]], [0.92, 0.95, 0.95, 0.92], color=theme.ink, lw=1, transform=across)
    low, high = axes.get_xlim()
    left = window[1] < (low + high) / 2
    axes.annotate(
        "magnified below", (window[1] if left else window[0], 0.95), (5 if left else -5, 0), xycoords=across,
        textcoords="offset points", ha="left" if left else "right", va="center", size=8, color=theme.muted,
    )  # fmt: skip


def _mark_moves(
    axes: Axes, moments: Any, stalls: pd.Series[float], window: tuple[float, float], apart: float, theme: Theme
) -> None:
    """A hairline where each move's first new byte arrives, with the move's stall in ms.

    A label that would be nearer to the one before than `apart`, as a share of the width, is left out.
    """
    across, labelled = axes.get_xaxis_transform(), -np.inf
    for moment, stall in zip(moments, stalls, strict=True):
        if window[0] < moment < window[1]:
            axes.plot([moment, moment], [0, 0.9], color=theme.ink, lw=0.8, transform=across)
            if moment - labelled > apart * (window[1] - window[0]):
                labelled, label = moment, f"{stall:.1f} ms"
                axes.text(moment, 0.92, label, ha="center", size=8, color=theme.ink, transform=across)


def _window(moments: Any, duration: float) -> tuple[float, float]:
    """The stretch of time (s) to magnify: the first moves if there are many, else the first one."""
    if len(moments) > ZOOM_MOVES + 2:
        half = (moments[ZOOM_MOVES] - moments[0]) / ZOOM_MOVES / 2
        return max(0.0, float(moments[0] - half)), float(moments[ZOOM_MOVES - 1] + half)
    reach = min(0.25, duration / 10)
    return max(0.0, float(moments[0] - reach)), min(duration, float(moments[0] + reach))


def _fine_bin_ms(deliveries: pd.DataFrame, limits: tuple[float, float]) -> float:
    """A bin for the stretch: about 100 of them, but several packets in each (GSO packets are large)."""
    interval_ms = float(deliveries["time_ns"].diff().median()) / 1e6
    least = max((limits[1] - limits[0]) * 1e3 / 120, 5 * interval_ms)
    return next((size for size in (0.5, 1, 2, 5, 10, 20) if size >= least), 50)


def waterfall(axes: Axes, table: pd.DataFrame, theme: Theme, wide: bool, colour: str = ACCENT) -> None:
    """A bar per phase from where the median of the one before ends, with the middle half of all.

    `table` as of `phase_table`.
    """
    if table.empty:
        axes.text(0.5, 0.5, "no phases reported", ha="center", transform=axes.transAxes, color=theme.muted)
        axes.set_axis_off()
        return
    middle, low, high = (table.quantile(q).to_numpy() for q in (0.5, 0.25, 0.75))
    left = np.cumsum(middle) - middle
    names = [name.replace("_", " ") for name in table.columns]
    rows = np.arange(len(middle))
    axes.barh(rows, middle, left=left, color=colour, height=0.62 if wide else 0.36)
    axes.set_yticks(rows, names if wide else [""] * len(names))
    if not wide:
        for row, name in enumerate(names):
            axes.text(0, row - 0.27, name, size=8.5, va="bottom", color=theme.ink)
    axes.hlines(rows, left + low, left + high, theme.ink, lw=1.4)
    reach = float((left + high).max())
    for row, (x, value) in enumerate(zip(left + high, middle, strict=True)):
        axes.text(x + reach * 0.02, row, f"{value:.2f}", va="center", size=8.5, color=theme.ink)
    axes.set(
        xlim=(0, reach * 1.14),
        xlabel="median time since the decision [ms]",
        ylim=(len(rows) - 0.4, -0.6 if wide else -0.8),
    )
    axes.grid(axis="x")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", colors=theme.ink)


def _distribution(axes: Axes, first_byte_ms: pd.Series[float], theme: Theme) -> None:
    """The cumulative distribution of decision to first new byte; shaded: 95 % interval of the median."""
    if first_byte_ms.empty:
        axes.text(0.5, 0.5, "no move reached the client", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    estimate = statistics.median(first_byte_ms)
    sns.ecdfplot(x=first_byte_ms, ax=axes, color=ACCENT, lw=2)
    if estimate.low is not None and estimate.high is not None:
        axes.axvspan(estimate.low, estimate.high, color=ACCENT, alpha=0.25, lw=0)
    assert estimate.value is not None
    if first_byte_ms.max() > 20 * estimate.value:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, first_byte_ms.max() * 1.05)
    for share in (0.5, 0.95) if len(first_byte_ms) >= 20 else (0.5,):
        value = float(np.quantile(first_byte_ms, share, method="inverted_cdf"))
        right = value < 0.6 * axes.get_xlim()[1]
        axes.plot(value, share, "o", color=theme.ink, ms=5)
        axes.annotate(
            f"{share:.0%}: {value:.2f} ms", (value, share), (9, -5) if right else (-9, 5),
            textcoords="offset points", ha="left" if right else "right", va="top" if right else "bottom",
        )  # fmt: skip
    axes.set(
        xlabel="decision to first new byte [ms]", ylabel="share of moves", ylim=(0, 1.1), yticks=np.linspace(0, 1, 6)
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    heading(axes, f"How long {len(first_byte_ms)} moves took")
