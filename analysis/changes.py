"""What differs between two sets of results, such as those of two revisions of the code, and what is only noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import catalogue, comparing, observations, statistics
from analysis.catalogue import METRICS, Metric
from analysis.comparing import CELL, SETTING
from analysis.observations import VERDICTS
from analysis.palette import mechanism_title
from analysis.run import RunError, read_object
from analysis.statistics import Estimate
from analysis.tables import Table, markdown, text, verdict_text

LEAST = 3
"""Repetitions of either, from which on a difference can be more than noise."""
_NAMED = ["scenario", "setting", "mechanism"]
_COUNTED = [word for word in VERDICTS if word != "invalid"]
"""Invalid runs say nothing, and are repeated: how many there were is no change."""


@dataclass(frozen=True)
class Change:
    """One metric of one cell."""

    scenario: str
    setting: str
    """What is varied within the scenario (comparing.settings)."""
    mechanism: str
    metric: Metric
    before: Estimate
    after: Estimate
    difference: Estimate
    """Of the medians, second minus first."""

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval of the difference leaves 0 out, of enough repetitions."""
        low, high = self.difference.low, self.difference.high
        return self.difference.n >= LEAST and low is not None and high is not None and (low > 0 or high < 0)

    @property
    def word(self) -> str:
        """Whether that is good."""
        if not self.metric.better or not self.difference.value:
            return ""
        return "better" if (self.difference.value > 0) == (self.metric.better == "more") else "worse"


def compare(first: Path | str, second: Path | str) -> list[Change]:
    """All metrics of all cells (scenario, factors, policy, mechanism) that both directories have.

    RunError when one of them has no judged runs, or they have no such cell in common.
    """
    return list(_changes(*_loaded(first, second)))


def report(first: Path | str, second: Path | str) -> str:
    """What changed beyond noise, as Markdown."""
    one, other = _loaded(first, second)
    found = list(_changes(one, other))
    order = comparing.in_order(change.mechanism for change in found)
    changed = [change for change in found if change.beyond_noise]
    changed.sort(key=lambda each: (each.word != "worse", each.scenario, each.setting, order.index(each.mechanism)))
    few = sum(change.difference.n < LEAST for change in found)
    said = [f"{len(changed)} of {len(found)} figures that both have differ beyond noise"]
    said[0] += ": the 95 % interval of the difference of their medians (second − first) leaves 0 out."
    said.append("Some do by chance: of figures with three repetitions one in 10, with more about one in 20.")
    said += [f"{few} have fewer than {LEAST} repetitions and say nothing."] if few else []
    parts = [f"first: {_about(first, one)}  \nsecond: {_about(second, other)}", " ".join(said)]
    if changed:
        columns = [*_NAMED, "figure", "first", "second", "difference", ""]
        parts.append(markdown(Table("", columns, [_row(change) for change in changed])))
    outcomes = list(_outcomes(one, other))
    if outcomes:
        parts.append("What became of the runs also differs:")
        parts.append(markdown(Table("", [*_NAMED, "first", "second"], outcomes)))
    parts += [f"Only in the {name}: {', '.join(each)}." for name, each in _alone(one, other) if each]
    return "\n\n".join(parts)


def _loaded(first: Path | str, second: Path | str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both, with `setting`; RunError if there is nothing to compare."""
    if Path(first).resolve() == Path(second).resolve():
        raise RunError(f"{first} and {second} are the same results")
    one, other = (observations.load(each) for each in (first, second))
    named = comparing.settings(pd.concat([one, other]))
    one, other = (each.merge(named, on=SETTING) for each in (one, other))
    if not _cells(one) & _cells(other):
        each = (", ".join(sorted(set(loaded["scenario"] + ": " + loaded["setting"]))) for loaded in (one, other))
        raise RunError(
            f"{first} ({next(each)}) and {second} ({next(each)}) have nothing in common: compared is what has the same "
            "scenario, factors, policy and mechanism"
        )
    return one, other


def _named(loaded: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The table, of such settings, with `setting`."""
    return table.merge(loaded[[*SETTING, "setting"]].drop_duplicates())


def _cells(loaded: pd.DataFrame) -> set[tuple[str, ...]]:
    return set(loaded[CELL].drop_duplicates().itertuples(index=False, name=None))


def _changes(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[Change]:
    values = [_named(each, comparing.per_run(each)) for each in (one, other)]
    cells = [dict(iter(each.groupby([*_NAMED, "metric"], sort=False)["value"])) for each in values]
    for cell in cells[0]:
        scenario, setting, mechanism, name = map(str, cell)
        if cell in cells[1] and (name in METRICS or name.startswith("measured.")):
            before, after = cells[0][cell], cells[1][cell]
            estimates = statistics.median(before), statistics.median(after), statistics.difference(before, after)
            yield Change(scenario, setting, mechanism, catalogue.named(name), *estimates)


def _row(change: Change) -> list[str]:
    estimates = (change.before, change.after, change.difference)
    figures = [text(change.metric, each) for each in estimates]
    return [
        change.scenario, change.setting, mechanism_title(change.mechanism), change.metric.heading, *figures, change.word
    ]  # fmt: skip


def _outcomes(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[list[str]]:
    """Rows of cells in which not the same share of runs succeeded, or failed, or was unsupported."""
    counts = [_named(each, comparing.verdicts(each)).set_index(_NAMED)[list(VERDICTS)] for each in (one, other)]
    for cell in counts[0].index.intersection(counts[1].index):
        pair = [each.loc[cell] for each in counts]
        shares = [each[_COUNTED] / max(each[_COUNTED].sum(), 1) for each in pair]
        if not shares[0].equals(shares[1]):
            scenario, setting, mechanism = cell
            yield [scenario, setting, mechanism_title(mechanism), *(verdict_text(each) or "–" for each in pair)]


def _alone(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """("first" or "second", what only that has)."""
    for name, mine, theirs in (("first", one, other), ("second", other, one)):
        alone = _named(mine, pd.DataFrame(sorted(_cells(mine) - _cells(theirs)), columns=CELL))
        rows = zip(alone["scenario"], alone["setting"], alone["mechanism"], strict=True)
        yield name, [f"{scenario} {setting} {mechanism_title(mechanism)}" for scenario, setting, mechanism in rows]


def _about(directory: Path | str, loaded: pd.DataFrame) -> str:
    """Where it is, how many runs it has, and by which code."""
    records = [read_object(path).get("git", {}) for path in Path(directory).resolve().rglob("run.json")]
    code = {str(git.get("commit", "?"))[:10] + (", modified" if git.get("modified") else "") for git in records}
    return f"{directory}, {loaded['run_id'].nunique()} runs, code {' and '.join(sorted(code))}"
