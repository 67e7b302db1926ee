"""Which figures a plan has: what its trials observed decides, so a new scenario gets its own without a word here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import catalogue, comparing, move_figures, one_move, plan_figures
from analysis.catalogue import METRICS, Metric
from analysis.comparing import SETTING
from analysis.metrics.wire import MTCP
from analysis.palette import LIGHT, Shape, Theme
from analysis.plans import Plan
from analysis.trials import Trial

MOST_PANELS = 6
MOST_BARS = 14
NO_LIMIT = ", 0: unlimited"
"""What factors say of which 0 is none."""
STALLS = ("stall_ms", "wire_stall_ms")
"""What tells which trial is the median one, the best first."""


@dataclass(frozen=True)
class Picture:
    """A figure of a plan."""

    name: str
    """Of its files."""
    title: str
    caption: str
    draw: Callable[[Theme, Shape], Figure]


@dataclass(frozen=True)
class View:
    """A plan, prepared for tables and figures."""

    plan: Plan
    loaded: pd.DataFrame = field(init=False)
    """observations.load, with `setting`."""
    values: pd.DataFrame = field(init=False)
    """comparing.per_run, with `setting`."""

    def __post_init__(self) -> None:
        named = comparing.settings(self.plan.loaded)
        object.__setattr__(self, "loaded", self.plan.loaded.merge(named, on=SETTING))
        object.__setattr__(self, "values", comparing.per_run(self.plan.loaded).merge(named, on=SETTING))

    def of(self, scenario: str) -> pd.DataFrame:
        """The scenario's part of `values`."""
        return self.values[self.values["scenario"] == scenario]

    def settings(self, scenario: str) -> list[str]:
        """Their names, in order."""
        rows = self.loaded.loc[self.loaded["scenario"] == scenario, ["setting", "factors"]].drop_duplicates()
        keys = [tuple(_sortable(value) for value in json.loads(text).values()) for text in rows["factors"]]
        return list(dict.fromkeys(rows["setting"].iloc[sorted(range(len(keys)), key=keys.__getitem__)]))

    def kinds(self, scenario: str) -> dict[str, list[str]]:
        """The settings by the factors that are words and vary: what these change is not the size of something."""
        rows = self.loaded[self.loaded["scenario"] == scenario].drop_duplicates("setting").set_index("setting")
        factors = {setting: json.loads(str(rows.loc[setting, "factors"])) for setting in self.settings(scenario)}
        names = dict.fromkeys(
            name for each in factors.values() for name, value in each.items() if isinstance(value, str)
        )
        varied = [name for name in names if len({each.get(name) for each in factors.values()}) > 1]
        found: dict[str, list[str]] = {}
        for setting, each in factors.items():
            found.setdefault(", ".join(f"{name}={each.get(name)}" for name in varied), []).append(setting)
        return found

    def headline(self, scenario: str, *settings: str) -> Metric | None:
        """What says most of the scenario, or of some of its settings."""
        values = self.of(scenario)
        if settings:
            values = values[values["setting"].isin(settings)]
        return catalogue.headline(scenario, set(values["metric"]))

    def label(self, scenario: str, setting: str) -> str:
        """What a panel or a group of rows is called."""
        return scenario if setting == comparing.USUAL else f"{scenario}, {setting}"


def headlines(view: View) -> Iterator[Picture]:
    """Those of the first screen: at most three."""
    scenarios = view.plan.scenarios
    moving = _moving(view)
    if moving:
        rows = [(view.label(name, first), name, first) for name in moving for first in view.settings(name)[:1]]
        yield _goodput(view, "goodput", rows[:3], height=2.3)  # all of it on the first screen
        grouped = _grouped(view, [name for name in moving if len(view.settings(name)) <= MOST_PANELS])
        yield Picture(
            "kept", "Who keeps what, and who waits how long",
            "Goodput after the fault, of that before; the longest time after it in which the client waited in vain. "
            "Large: median of the repetitions, bar: 95 % interval; small: each.",
            _later(plan_figures.dots, grouped, [METRICS["kept"], METRICS["silence_ms"]]),
        )  # fmt: skip
    if not moving:
        found = [picture for name in scenarios for picture in _sweeps(view, name)]
        yield from found[:3]


def of_scenario(view: View, scenario: str) -> Iterator[Picture]:
    """All figures of a scenario."""
    settings = view.settings(scenario)
    rows = [(setting if setting != comparing.USUAL else scenario, scenario, setting) for setting in settings]
    if _has(view, scenario, "kept") and len(settings) <= MOST_PANELS and (len(settings) > 1 or len(_moving(view)) > 1):
        yield _goodput(view, f"{scenario}-goodput", rows)
    yield from _sweeps(view, scenario)
    answered = set(view.of(scenario).loc[view.of(scenario)["metric"] == "request_p50_ms", "setting"])
    asked = [row for row in rows if row[2] in answered]
    if asked:
        yield Picture(
            f"{scenario}-latencies", "Request latencies",
            "Requests asked after the fault, of all repetitions together: a picture, no statistic.",
            _later(plan_figures.latencies, view.loaded, _panels(view, asked[:MOST_PANELS])),
        )  # fmt: skip
    if _has(view, scenario, "buffer_s", loaded=True):
        yield Picture(
            f"{scenario}-buffer", "Play-out buffer",
            "Media in the player's buffer when segments arrived; a line is a repetition. At 0 play-out halts.",
            _later(plan_figures.buffers, view.loaded, _panels(view, rows[:MOST_PANELS])),
        )  # fmt: skip
    of_moves = view.of(scenario)
    of_moves = of_moves[(of_moves["mechanism"] == MTCP) & of_moves["metric"].str.startswith("phase.")]
    if len(of_moves) and len(settings) <= MOST_BARS:
        of_moves = of_moves.assign(order=of_moves["setting"].map(settings.index)).sort_values("order", kind="stable")
        grouped = of_moves.assign(group=[view.label(scenario, each) for each in of_moves["setting"]])
        yield Picture(
            f"{scenario}-phases", "What a move of M-TCP is made of",
            "Phases as the agents timed them, and the rest up to the client's first new byte; medians, end to end."
            + (" Lines: the middle half of the repetitions." if grouped["group"].nunique() == 1 else ""),
            _later(plan_figures.phases, grouped),
        )  # fmt: skip
    yield from _of_one_move(view, scenario)


def _of_one_move(view: View, scenario: str) -> Iterator[Picture]:
    """The median trial of M-TCP, if its captures allow pictures of its median move."""
    values = view.of(scenario)
    values = values[(values["mechanism"] == MTCP) & (values["verdict"] == "succeeded")]
    stalls = next((found for name in STALLS if len(found := values[values["metric"] == name])), values.iloc[:0])
    if stalls.empty:
        return
    median = stalls.sort_values("value", kind="stable").iloc[(len(stalls) - 1) // 2]
    move = one_move.of_trial(Trial(view.plan.run(str(median["run_id"]))))
    if move is None:
        return
    metric = METRICS[str(median["metric"])]
    which = (
        f"Run {median['run_id']}: of {len(stalls)} of M-TCP, the one whose {metric.title} is the median, "
        f"{metric.text(median['value'])} ms; {move.about}."
    )
    yield Picture(
        f"{scenario}-sequence", "One move of M-TCP, segment by segment",
        f"As the capture at the client shows it, before the client's mapping, which refuses segments of the old server "
        f"from the decision on. {which}", _later(move_figures.sequence, move),
    )  # fmt: skip
    yield Picture(
        f"{scenario}-ladder", "The same move, message by message",
        "From the captures of all three hosts. What agents tell one another is encrypted: broken lines are drawn from "
        "their events. Every event has a row of its own, so heights are only partly in proportion to time; a server's "
        f"thick line is while the connection is its own. {which}", _later(move_figures.ladder, move),
    )  # fmt: skip


def _moving(view: View) -> list[str]:
    """The scenarios that are about goodput before and after a fault."""
    return [name for name in view.plan.scenarios if _has(view, name, "kept")]


def _sweeps(view: View, scenario: str) -> Iterator[Picture]:
    """The headline against each factor that varies and is a number."""
    values, metric = view.of(scenario), view.headline(scenario)
    if values.empty or metric is None:
        return
    factors = pd.DataFrame([json.loads(text) for text in values["factors"]], index=values.index)
    varied = [name for name in factors if factors[name].nunique() > 1]
    numbers = [name for name in varied if pd.api.types.is_numeric_dtype(factors[name])]
    for factor in numbers:
        others = [name for name in varied if name != factor]
        parts = ["" if not others else ", ".join(f"{name}={value}" for name, value in row.items())
                 for row in factors[others].to_dict("records")]  # fmt: skip
        meant = view.plan.about(scenario).get("factors", {}).get(factor, "")
        table = values.assign(group=parts)
        table[str(factor)] = factors[factor].astype(float).mask(factors[factor].eq(0) & (NO_LIMIT in meant), np.inf)
        meant = meant.replace(NO_LIMIT, "")
        table = table[table["group"].isin(table.loc[table["metric"] == metric.name, "group"])]
        if table["group"].nunique() > (MOST_PANELS if len(numbers) == 1 else MOST_PANELS // 2):
            continue
        floor = " Broken: the floor, what a lazy move takes at least." if metric.name in plan_figures.FLOORED else ""
        yield Picture(
            f"{scenario}-{factor}", f"{metric.title.capitalize()} against {factor}",
            f"{metric.meaning.capitalize()}; medians of the repetitions with 95 % intervals.{floor}",
            _later(plan_figures.against, table, factor, metric, label=f"{factor}: {meant}" if meant else str(factor)),
        )  # fmt: skip


def _goodput(view: View, name: str, rows: list[tuple[str, str, str]], **more: object) -> Picture:
    return Picture(
        name, "Goodput over time",
        "What the application read, in bins of 100 ms: median of the repetitions, and all of them as a band. ▼: the "
        "median move to another server.",
        _later(plan_figures.goodput, view.loaded, _panels(view, rows), **more),
    )  # fmt: skip


def _panels(view: View, rows: list[tuple[str, str, str]]) -> list[tuple[str, pd.Series]]:
    """(heading, scenario, setting) as (heading, rows of `loaded`)."""
    loaded = view.loaded
    return [
        (title, (loaded["scenario"] == scenario) & (loaded["setting"] == setting)) for title, scenario, setting in rows
    ]


def _grouped(view: View, scenarios: list[str]) -> pd.DataFrame:
    """The values of these scenarios, in order, with `group`."""
    parts = [
        view.of(scenario)[lambda part, setting=setting: part["setting"] == setting].assign(
            group=view.label(scenario, setting)
        )
        for scenario in scenarios
        for setting in view.settings(scenario)
    ]
    return pd.concat(parts) if parts else view.values.iloc[:0].assign(group="")


def _later(draw: Callable[..., Figure], *arguments: object, **more: object) -> Callable[[Theme, Shape], Figure]:
    def drawn(theme: Theme = LIGHT, shape: Shape = "wide") -> Figure:
        return draw(*arguments, theme=theme, shape=shape, **more)

    return drawn


def _has(view: View, scenario: str, metric: str, loaded: bool = False) -> bool:
    table = view.loaded if loaded else view.values
    return bool(((table["scenario"] == scenario) & (table["metric"] == metric)).any())


def _sortable(value: object) -> tuple[int, float, str]:
    """Numbers by size, before texts."""
    return (0, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, str(value))
