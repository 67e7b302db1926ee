"""The figures of a plan: mechanisms side by side. A mechanism has the same colour and the same sign everywhere.

Medians of the repetitions, with 95 % bootstrap intervals; single repetitions are drawn where there is room. Each figure
comes wide or narrow, for a page or a phone. The functions return Matplotlib figures and touch no global state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from analysis import statistics
from analysis.catalogue import Metric
from analysis.comparing import COUNTED, in_order
from analysis.figures import waterfall
from analysis.palette import (
    LIGHT,
    Shape,
    Theme,
    heading,
    mechanism_colour,
    mechanism_marker,
    mechanism_title,
    style,
)

FLOORED = ("stall_ms", "wire_stall_ms", "first_byte_ms")
"""Metrics that have a physical limit, which is drawn beside them."""
WIDE_RANGE = 20
"""A quantity whose values are so many times apart is drawn on a logarithmic axis."""
NEAR = 0.03
"""Signs so near, as a share of the width, would cover one another."""
SIGNS = 24
"""Points above a panel that the signs of moves take."""


def goodput(
    loaded: pd.DataFrame, panels: Sequence[tuple[str, pd.Series]], theme: Theme = LIGHT, shape: Shape = "wide",
    height: float = 3.1,
) -> Figure:  # fmt: skip
    """Goodput over time, a panel for each (heading, rows of `loaded`); band: all repetitions; ▼: the median move."""
    with mpl.rc_context(style(theme)):
        figure, axes = _panels(len(panels), shape, height, sharey=True)
        found: set[str] = set()
        for place, (title, rows) in enumerate(panels):
            part = loaded[rows & loaded["verdict"].isin(COUNTED)]
            found |= _goodput(axes[place], part, theme)
            heading(axes[place], title, SIGNS)
            axes[place].set_xlabel("time since the fault [s]")
        axes[0].set(ylabel="goodput [Mbit/s]", ylim=(0, None))  # of all panels, when all is drawn
        _legend(figure, axes, found)
    return figure


def dots(values: pd.DataFrame, metrics: Sequence[Metric], theme: Theme = LIGHT, shape: Shape = "wide") -> Figure:
    """Metrics of `per_run`, a panel each: per `group` of `values` a block of rows, per mechanism a row.

    Large sign: median; bar: its interval; small signs: the repetitions.
    """
    mine = values[values["metric"].isin([metric.name for metric in metrics])]
    rows = [
        (str(group), name)
        for group, block in mine.groupby("group", sort=False)
        for name in ("", *in_order(block["mechanism"]))
    ]  # fmt: skip
    wide = shape == "wide"
    height = 0.6 + 0.21 * len(rows)
    with mpl.rc_context(style(theme) | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(10, height) if wide else (4.6, height * len(metrics)), layout="constrained")
        grid = figure.subplots(*((1, len(metrics)) if wide else (len(metrics), 1)), squeeze=False).flatten()
        for place, (axes, metric) in enumerate(zip(grid, metrics, strict=True)):
            first = place == 0 or not wide
            _dots(axes, mine[mine["metric"] == metric.name], rows, metric, theme, first)
            axes.tick_params(labelleft=first)
    return figure


def against(
    values: pd.DataFrame, factor: str, metric: Metric, theme: Theme = LIGHT, shape: Shape = "wide", label: str = ""
) -> Figure:
    """A metric against a numeric factor, a line per mechanism; a panel for each `group` of `values`.

    `values` as `per_run`'s, with a column for the factor, and `group`: what else varies. Where the metric has a floor
    (FLOORED), that is a broken line. A factor may be infinite: the last place on the axis is that of no limit.
    """
    scale = 100 if metric.share else 1
    groups = list(dict.fromkeys(values["group"]))
    tried = sorted({float(each) for each in values[factor]})
    names = [_short(each) if np.isfinite(each) else "unlimited" for each in tried]
    if not np.isfinite(tried[-1]):
        tried[-1] = 2 * max([1.0, *tried[:-1]])
        values = values.assign(**{factor: values[factor].replace(np.inf, tried[-1])})
    with mpl.rc_context(style(theme)):
        figure, axes = _panels(len(groups), shape, 3.3, sharey=True)
        found: set[str] = set()
        for place, group in enumerate(groups):
            of_group = values[values["group"] == group]
            for name in in_order(of_group["mechanism"]):
                mine = of_group[(of_group["mechanism"] == name) & (of_group["metric"] == metric.name)]
                if len(mine):
                    found.add(name)
                    _line(axes[place], mine, factor, scale, name)
            floor = of_group[of_group["metric"] == "floor_ms"].groupby(factor)["value"].median()
            if metric.name in FLOORED and len(floor):
                axes[place].plot(floor.index, floor, color=theme.muted, ls="--", lw=1.2)
            heading(axes[place], group)
            axes[place].set_xlabel(textwrap.fill(label or factor, _letters(len(groups), shape)))
            if tried[-1] > WIDE_RANGE * min(each for each in tried if each > 0):
                # 0 is a value like others, and has no logarithm.
                axes[place].set_xscale("symlog", linthresh=tried[tried[0] == 0], linscale=0.4)
            if axes[place].get_xscale() != "linear" or "unlimited" in names:
                axes[place].set_xticks(tried, _thinned(names, _letters(len(groups), shape)))
                axes[place].xaxis.set_minor_locator(NullLocator())
        drawn = values.loc[values["metric"] == metric.name, "value"] * scale
        if _is_wide(drawn) and not metric.share:
            axes[0].set_yscale("log")
            _plain_log(axes[0].yaxis, drawn)
        else:
            axes[0].set_ylim(0, float(drawn.max()) * 1.15 or 1)
        axes[0].set_ylabel(metric.heading)
        more = [Line2D([], [], color=theme.muted, ls="--", lw=1.2, label="floor")] if metric.name in FLOORED else []
        _legend(figure, axes, found, more)
    return figure


def latencies(
    loaded: pd.DataFrame, panels: Sequence[tuple[str, pd.Series]], theme: Theme = LIGHT, shape: Shape = "wide"
) -> Figure:
    """The distribution of request latencies after the fault, all repetitions together, a panel for each setting."""
    with mpl.rc_context(style(theme)):
        figure, axes = _panels(len(panels), shape, 3.1, sharey=True)
        found: set[str] = set()
        for place, (title, rows) in enumerate(panels):
            part = loaded[rows & loaded["verdict"].isin(COUNTED) & (loaded["metric"] == "request_ms")]
            part = part[part["time"] >= 0]
            for name in in_order(part["mechanism"]):
                took = part.loc[part["mechanism"] == name, "value"]
                sns.ecdfplot(x=took, ax=axes[place], color=mechanism_colour(name), lw=1.8)
                found.add(name)
            axes[place].set_xscale("log")
            _plain_log(axes[place].xaxis, part["value"])
            axes[place].set(xlabel="request, asked to last byte [ms]", ylabel="", ylim=(0, 1.02))
            axes[place].yaxis.set_major_formatter(PercentFormatter(1.0))
            heading(axes[place], title)
        axes[0].set_ylabel("share of requests")
        _legend(figure, axes, found, signs=False)
    return figure


def buffers(
    loaded: pd.DataFrame, panels: Sequence[tuple[str, pd.Series]], theme: Theme = LIGHT, shape: Shape = "wide"
) -> Figure:
    """Media in the play-out buffer when segments arrived, a line for each repetition."""
    with mpl.rc_context(style(theme)):
        figure, axes = _panels(len(panels), shape, 3.1, sharey=True)
        found: set[str] = set()
        for place, (title, rows) in enumerate(panels):
            part = loaded[rows & loaded["verdict"].isin(COUNTED) & (loaded["metric"] == "buffer_s")]
            for name in in_order(part["mechanism"]):
                found.add(name)
                for _, run in part[part["mechanism"] == name].groupby("run_id"):
                    axes[place].plot(run["time"], run["value"], color=mechanism_colour(name), lw=1.4, alpha=0.75)
            axes[place].axvline(0, color=theme.ink, lw=0.9)
            axes[place].set_xlabel("time since the fault [s]")
            heading(axes[place], title)
        axes[0].set(ylabel="media in the buffer [s]", ylim=(0, None))
        _legend(figure, axes, found, signs=False)
    return figure


def phases(values: pd.DataFrame, theme: Theme = LIGHT, shape: Shape = "wide") -> Figure:
    """What a move of M-TCP is made of: medians, end to end, of its phases.

    A bar for each `group` of `per_run`'s values; of a single one, a bar for each phase.
    """
    mine = values[values["metric"].str.startswith("phase.")]
    names = {name: str(name).removeprefix("phase.").removesuffix("_ms") for name in mine["metric"].unique()}
    wide = shape == "wide"
    with mpl.rc_context(style(theme) | {"axes.grid.axis": "x"}):
        if mine["group"].nunique() == 1:
            figure = Figure(figsize=(10, 3) if wide else (4.6, 3.6), layout="constrained")
            table = mine.pivot_table(index="run_id", columns="metric", values="value", sort=False)
            waterfall(figure.subplots(), table.rename(columns=names), theme, wide, mechanism_colour("mtcp"))
            return figure
        table = mine.pivot_table(index="group", columns="metric", values="value", aggfunc="median", sort=False)
        colours = sns.color_palette("viridis", len(names) + 1)[1:]
        rows = len(table)
        figure = Figure(figsize=(10, 1 + 0.45 * rows) if wide else (4.6, 1.8 + 0.45 * rows), layout="constrained")
        axes = figure.subplots()
        left = np.zeros(rows)
        for colour, name in zip(colours, table, strict=True):
            width = table[name].fillna(0).to_numpy()
            axes.barh(np.arange(rows), width, left=left, color=colour, height=0.42, label=names[name],
                      edgecolor=theme.paper)  # fmt: skip
            left += width
        for place, label in enumerate(table.index):
            axes.text(0, place - 0.25, str(label), size=8.5, va="bottom")
        axes.set_yticks([])
        axes.set(xlabel="median time since the decision [ms]", ylim=(rows - 0.6, -0.75))
        columns = 4 if wide else 2
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=8.5, handlelength=1)
    return figure


def _goodput(axes: Axes, part: pd.DataFrame, theme: Theme) -> set[str]:
    """One panel; which mechanisms are in it."""
    series = part[part["metric"] == "goodput_mbps"]
    width = float(series["time"].drop_duplicates().sort_values().diff().median()) if len(series) else 0.0
    names, moments = in_order(series["mechanism"]), list[float]()
    for name in names[::-1]:  # the first is the one on top
        colour = mechanism_colour(name)
        table = series[series["mechanism"] == name].pivot_table(index="time", columns="run_id", values="value")
        times = table.index.to_numpy() + width / 2
        if table.shape[1] > 1:
            axes.fill_between(times, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.16, lw=0)
        axes.plot(times, table.median(axis=1), color=colour, lw=1.7)
        moves = part.loc[(part["mechanism"] == name) & (part["metric"] == "move_stall_ms"), "time"]
        if 0 < len(moves) <= 2 * table.shape[1]:
            at = float(np.median(moves))
            height = 1 + 0.055 * sum(abs(at - each) < NEAR * (times[-1] - times[0]) for each in moments)
            axes.plot(at, height, "v", color=colour, ms=8, clip_on=False, transform=axes.get_xaxis_transform())
            moments.append(at)
    axes.axvline(0, color=theme.ink, lw=0.9)
    axes.annotate(
        "fault", (0, 1.0), (-3, -2), xycoords=axes.get_xaxis_transform(), textcoords="offset points", size=8,
        color=theme.muted, ha="right", va="top",
    )  # fmt: skip
    axes.margins(x=0.01)
    return set(names)


def _dots(
    axes: Axes, mine: pd.DataFrame, rows: Sequence[tuple[str, str]], metric: Metric, theme: Theme, titled: bool
) -> None:
    """A panel of `dots`."""
    scale = 100 if metric.share else 1
    if _is_wide(mine["value"]) and not metric.share:
        axes.set_xscale("log")
        _plain_log(axes.xaxis, mine["value"])
    else:
        axes.set_xlim(0, float(mine["value"].max()) * scale * 1.15 or 1)
    for place, (group, name) in enumerate(rows):
        of_row = mine.loc[(mine["group"] == group) & (mine["mechanism"] == name), "value"] * scale
        if len(of_row):
            _dot(axes, place, of_row, metric, name, theme)
    axes.set_yticks(range(len(rows)), [mechanism_title(name) if name else "" for _, name in rows])
    for place, (group, name) in enumerate(rows if titled else ()):
        if not name:
            axes.text(0, place, group, transform=axes.get_yaxis_transform(), va="center", weight="bold", size=9)
    axes.tick_params(axis="y", colors=theme.ink)
    axes.set(ylim=(len(rows) - 0.5, -0.7), xlabel=metric.heading)


def _dot(axes: Axes, place: int, values: pd.Series[float], metric: Metric, name: str, theme: Theme) -> None:
    """A row of `dots`."""
    colour, estimate = mechanism_colour(name), statistics.median(values)
    assert estimate.value is not None
    axes.plot(values, np.full(len(values), place), mechanism_marker(name), color=colour, ms=4.5, alpha=0.45, mew=0)
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [place, place], color=colour, lw=2.4, solid_capstyle="butt")
    axes.plot(estimate.value, place, mechanism_marker(name), color=colour, ms=8, mec=theme.paper, mew=0.8)
    shown = estimate.value / 100 if metric.share else estimate.value
    axes.annotate(
        f"{metric.text(shown)} {metric.shown_unit}", (float(values.max()), place), (9, 0), textcoords="offset points",
        va="center", size=8.5,
    )  # fmt: skip


def _line(axes: Axes, mine: pd.DataFrame, factor: str, scale: float, name: str) -> None:
    """A line of `against`, with intervals."""
    found = {float(str(x)): statistics.median(group["value"] * scale) for x, group in mine.groupby(factor)}
    places = list(found)
    middle = np.array([each.value for each in found.values()], float)
    low = np.array([each.value if each.low is None else each.low for each in found.values()], float)
    high = np.array([each.value if each.high is None else each.high for each in found.values()], float)
    axes.errorbar(
        places, middle, [middle - low, high - middle], color=mechanism_colour(name), marker=mechanism_marker(name),
        ms=6, lw=1.7, elinewidth=1.2, capsize=3,
    )  # fmt: skip


def _panels(count: int, shape: Shape, height: float, sharey: bool) -> tuple[Figure, list[Axes]]:
    """So many panels, at most three beside each other, or one below the other where it is narrow."""
    columns = 1 if shape == "narrow" else min(count, 3)
    rows = -(-count // columns)
    size = (10, height * rows + 0.3) if shape == "wide" else (4.6, 2.5 * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten().tolist()
    for spare in grid[count:]:
        spare.set_axis_off()
    return figure, grid[:count]


def _legend(
    figure: Figure, axes: Sequence[Axes], names: set[str], more: Sequence[Line2D] = (), signs: bool = True
) -> None:
    """One for the whole figure, above it."""
    curves = not any(len(each.containers) for each in axes)
    handles = [
        Line2D(
            [], [], color=mechanism_colour(name), lw=2, marker=None if curves or not signs else mechanism_marker(name),
            label=mechanism_title(name),
        )
        for name in in_order(names)
    ]  # fmt: skip
    figure.legend(
        handles=[*handles, *more], loc="outside upper left", ncols=6, frameon=False, handlelength=1.4, columnspacing=1.2
    )


def _short(value: float) -> str:
    """1000 as "1 k", 1024 as "1 Ki"."""
    binary = value >= 1024 and value % 1024 == 0 and int(value).bit_count() == 1
    for unit, scale in (("Mi", 2**20), ("Ki", 2**10)) if binary else (("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:g}\u202f{unit}"
    return f"{value:g}"


def _letters(panels: int, shape: Shape) -> int:
    """How many there is room for below one of so many panels."""
    return 45 if shape == "narrow" or panels >= 3 else 140 // panels


def _thinned(labels: list[str], letters: int) -> list[str]:
    """Labels of an axis with room for so many letters: each, or each second … one, and the last."""
    step = next(step for step in range(1, len(labels) + 1) if sum(len(each) + 2 for each in labels[::-step]) <= letters)
    return [label if (len(labels) - 1 - place) % step == 0 else "" for place, label in enumerate(labels)]


def _plain_log(axis: Axis, values: pd.Series[float]) -> None:
    """Numbers as they are on a logarithmic axis, several in a decade where there are few decades."""
    few = float(values.max()) < 300 * float(values.min()) if len(values) else False
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}".replace(",", "\u202f")))
    axis.set_minor_locator(NullLocator())


def _is_wide(values: pd.Series[float]) -> bool:
    positive = values[values > 0]
    return len(positive) == len(values) > 0 and float(positive.max()) > WIDE_RANGE * float(positive.min())
