"""Tables of a plan: the same for the page, for Markdown, and for whoever reads the code.

Figures are medians of the repetitions with 95 % bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import catalogue, comparing, observations, statistics
from analysis.catalogue import METRICS, Metric
from analysis.comparing import USUAL, in_order
from analysis.observations import VERDICTS
from analysis.palette import mechanism_title
from analysis.plan_pictures import View
from analysis.run import RunError
from analysis.statistics import Estimate

FEW = 2
"""Settings up to which each gets a table of its own, with all metrics; else one table has them all, with a few."""
BESIDE = ("floor_ms", "floor_ratio", "request_rate", "request_p50_ms", "request_p99_ms", "moves")
"""Metrics of that one table, beside headlines and what comes with them."""
BESIDE_HEADLINE = 2
"""So many of what comes with it: the first screen is to be taken in at a glance."""
BEGIN, END = "<!-- tables: made by python -m analysis tables -->", "<!-- tables: end -->"


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names them."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Cell:
    """A scenario's setting, or all of them, by one mechanism: on the first screen."""

    main: str
    interval: str
    more: list[tuple[str, str]]
    runs: str
    """How many did what, where that is not simply that all succeeded."""
    best: bool


def text(metric: Metric, estimate: Estimate) -> str:
    """A figure with its interval, without unit."""
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return metric.text(estimate.value)
    return f"{metric.text(estimate.value)} ({metric.text(estimate.low)} … {metric.text(estimate.high)})"


def of_scenario(view: View, scenario: str) -> list[Table]:
    """All tables of a scenario."""
    settings = view.settings(scenario)
    if len(settings) > FEW:
        return [_over_settings(view, scenario, settings)]
    return [_of_setting(view, scenario, setting) for setting in settings]


def against(view: View, scenario: str, first: str = "mtcp") -> Table | None:
    """A mechanism against each other one, pair by pair; None if there is no other."""
    rows: list[list[str]] = []
    values, kinds = view.of(scenario), view.kinds(scenario)
    if first not in set(values["mechanism"]):
        return None
    headlines = [metric for settings in kinds.values() if (metric := view.headline(scenario, *settings)) is not None]
    metrics = list(dict.fromkeys([*headlines, *catalogue.companions(set(values["metric"]))]))
    for kind, settings in kinds.items():
        mine = values[values["setting"].isin(settings)]
        for other in in_order(mine["mechanism"]):
            if other != first:
                name = f"{mechanism_title(first)} − {mechanism_title(other)}"
                row = [f"{kind}: {name}" if kind else name]
                rows.append(row + [_difference(mine, metric, first, other) for metric in metrics])
    return Table("Paired differences", ["", *(metric.heading for metric in metrics)], rows) if rows else None


def _difference(values: pd.DataFrame, metric: Metric, first: str, second: str) -> str:
    found = comparing.paired(values, metric.name, first, second)
    delta = "" if found.delta is None else f", δ {found.delta:+.2f}"
    return "–" if not found.difference.n else f"{text(metric, found.difference)}{delta}"


def first_screen(view: View, mechanisms: Sequence[str]) -> list[tuple[str, str, list[Cell | None]]]:
    """(scenario or settings, what its figures are, a cell for each mechanism or None) per row."""
    rows: list[tuple[str, str, list[Cell | None]]] = []
    for scenario in view.plan.scenarios:
        settings = view.settings(scenario)
        for kind, several in view.kinds(scenario).items():
            for part in [[setting] for setting in several] if len(settings) <= FEW else [several]:
                metric = view.headline(scenario, *part)
                label = f"{scenario}, {kind}" if kind else scenario
                label = view.label(scenario, part[0]) if len(part) == 1 else f"{label}, {len(part)} settings"
                rows.append((label, metric.heading if metric else "", _cells(view, scenario, part, metric, mechanisms)))
    return rows


def verdict_text(counts: pd.Series) -> str:
    """How many runs did what: "3 succeeded, 1 invalid"."""
    return ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts[word])


def markdown(table: Table) -> str:
    """As Markdown."""
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def document(view: View) -> str:
    """All tables of a plan, as Markdown."""
    plan = view.plan
    parts = []
    for scenario in plan.scenarios:
        parts.append(f"### {scenario}")
        for table in of_scenario(view, scenario):
            parts += [table.title, markdown(table)] if table.title else [markdown(table)]
        paired = against(view, scenario)
        if paired is not None:
            parts += [f"{paired.title}, with Cliff's δ:", markdown(paired)]
        parts.append(_source(view, scenario))
    return "\n\n".join(parts) + "\n"


def insert(page: Path, made: str, begin: str = BEGIN, end: str = END) -> None:
    """Put Markdown between the markers on the page; RunError when they are not there."""
    content = page.read_text()
    if begin not in content or end not in content:
        raise RunError(f"{page} has no lines {begin} and {end}")
    before, _, rest = content.partition(begin)
    page.write_text(f"{before}{begin}\n\n{made}\n{end}{rest.partition(end)[2]}")


def _of_setting(view: View, scenario: str, setting: str) -> Table:
    """Metrics by mechanisms."""
    values, counts = _parts(view, scenario, [setting])
    mechanisms = in_order([*counts["mechanism"]])
    rows = [["runs", *(verdict_text(_sum(counts, name)) for name in mechanisms)]]
    for metric in catalogue.shown(set(values["metric"])):
        of_metric = values[values["metric"] == metric.name]
        found = [statistics.median(of_metric.loc[of_metric["mechanism"] == name, "value"]) for name in mechanisms]
        rows.append([metric.heading, *(text(metric, each) for each in found)])
    title = "" if setting == USUAL else setting
    return Table(title, ["", *map(mechanism_title, mechanisms)], rows)


def _over_settings(view: View, scenario: str, settings: Sequence[str]) -> Table:
    """Settings and mechanisms by a few metrics."""
    values, counts = _parts(view, scenario, None)
    present = set(values["metric"])
    each = [view.headline(scenario, setting) for setting in settings]
    few = [metric for metric in each if metric is not None] + catalogue.companions(present)
    few += [METRICS[name] for name in BESIDE if name in present]
    few += [catalogue.named(name) for name in sorted(present) if name.startswith("measured.")]
    few = list(dict.fromkeys(few))
    rows = []
    for setting in settings:
        for name in in_order(counts.loc[counts["setting"] == setting, "mechanism"]):
            mine = values[(values["setting"] == setting) & (values["mechanism"] == name)]
            found = [statistics.median(mine.loc[mine["metric"] == metric.name, "value"]) for metric in few]
            total = _sum(counts[counts["setting"] == setting], name)
            figures = [text(metric, each) for metric, each in zip(few, found, strict=True)]
            rows.append([setting, mechanism_title(name), *figures, verdict_text(total)])
    return Table("", ["setting", "mechanism", *(metric.heading for metric in few), "runs"], rows)


def _cells(
    view: View, scenario: str, settings: Sequence[str], metric: Metric | None, mechanisms: Sequence[str]
) -> list[Cell | None]:
    values, counts = _parts(view, scenario, settings)
    # Of several settings only the range is shown: medians over different things say nothing.
    beside = catalogue.companions(set(values["metric"]), metric)[:BESIDE_HEADLINE] if len(settings) == 1 else []
    found: list[tuple[str, str, list[tuple[str, str]], str, float | None] | None] = []
    for name in mechanisms:
        if name not in set(counts["mechanism"]):
            found.append(None)
            continue
        mine = values[values["mechanism"] == name]
        main, interval, value = _main(mine, metric)
        more = [
            (each.title, f"{each.text(estimate.value)} {each.shown_unit}")
            for each in beside
            if (estimate := statistics.median(mine.loc[mine["metric"] == each.name, "value"])).value is not None
        ]
        total = _sum(counts, name)
        found.append(
            (main, interval, [*(_rates(mine, metric) if len(settings) == 1 else []), *more], _runs(total), value)
        )
    known = [each[4] for each in found if each is not None and each[4] is not None]
    top = None
    if metric is not None and len(known) > 1 and metric.better:
        top = max(known) if metric.better == "more" else min(known)
    return [
        None if each is None else Cell(*each[:4], best=each[4] is not None and each[4] == top) for each in found
    ]  # fmt: skip


def _rates(mine: pd.DataFrame, metric: Metric | None) -> list[tuple[str, str]]:
    """Beside a share of goodput, of what: more where one has two paths, less where an implementation is slow."""
    after, before = (
        statistics.median(mine.loc[mine["metric"] == f"goodput_{when}_mbps", "value"]).value
        for when in ("after", "before")
    )
    if metric is None or metric.name != "kept" or after is None or before is None:
        return []
    return [("", f"{after:.0f} of {before:.0f} Mbit/s")]


def _runs(total: pd.Series) -> str:
    """How many, if all succeeded; else how many did what."""
    if total["succeeded"] < total.sum():
        return verdict_text(total)
    return f"{total['succeeded']} runs" if total["succeeded"] != 1 else "1 run"


def _main(mine: pd.DataFrame, metric: Metric | None) -> tuple[str, str, float | None]:
    """(figure, interval, its value): of one setting; of several the range of their medians."""
    if metric is None:
        return "–", "", None
    of_metric = mine[mine["metric"] == metric.name]
    if of_metric["setting"].nunique() > 1:
        medians = of_metric.groupby("setting")["value"].median()
        return f"{metric.text(medians.min())} … {metric.text(medians.max())} {metric.shown_unit}", "", None
    estimate = statistics.median(of_metric["value"])
    if estimate.value is None:
        return "–", "", None
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"{metric.text(estimate.low)} … {metric.text(estimate.high)}"
    return f"{metric.text(estimate.value)} {metric.shown_unit}".strip(), interval, estimate.value


def _parts(view: View, scenario: str, settings: Sequence[str] | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The values, and the counts of verdicts, of some of a scenario's settings, or of all."""
    values, loaded = view.of(scenario), view.loaded[view.loaded["scenario"] == scenario]
    if settings is not None:
        values, loaded = values[values["setting"].isin(settings)], loaded[loaded["setting"].isin(settings)]
    counts = comparing.verdicts(loaded).merge(view.loaded[[*comparing.SETTING, "setting"]].drop_duplicates())
    return values, counts


def _sum(counts: pd.DataFrame, mechanism: str) -> pd.Series:
    return counts.loc[counts["mechanism"] == mechanism, list(VERDICTS)].sum()


def _source(view: View, scenario: str) -> str:
    """Where the figures come from."""
    mine = observations.runs(view.plan.loaded)
    mine = mine[mine["scenario"] == scenario]
    emulation = ", ".join(sorted(set(mine["emulation"]) - {""}))
    git = view.plan.metadata.get("git", {})
    code = f"code {str(git.get('commit', '?'))[:10]}{', modified' if git.get('modified') else ''}"
    return f"{len(mine)} runs of plan {view.plan.name}/{view.plan.id}; {code}; links by {emulation or '?'}."
