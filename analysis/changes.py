"""What differs between two sets of results, such as those of two revisions of the code, and what is only noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from analysis import catalogue, comparing, observations, statistics
from analysis.catalogue import METRICS, Metric
from analysis.comparing import CELL
from analysis.palette import mechanism_title
from analysis.statistics import Estimate
from analysis.tables import Table, markdown, text

LEAST = 3
"""Repetitions of either, from which on a difference can be more than noise."""


@dataclass(frozen=True)
class Change:
    """One metric of one cell."""

    scenario: str
    factors: str
    policy: str
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

    RunError when one of them has no judged runs.
    """
    values = [comparing.per_run(observations.load(each)) for each in (first, second)]
    cells = [dict(iter(each.groupby([*CELL, "metric"])["value"])) for each in values]
    found = []
    for cell in cells[0]:
        scenario, factors, policy, mechanism, name = map(str, cell)
        if cell in cells[1] and (name in METRICS or name.startswith("measured.")):
            one, other = cells[0][cell], cells[1][cell]
            estimates = statistics.median(one), statistics.median(other), statistics.difference(one, other)
            found.append(Change(scenario, factors, policy, mechanism, catalogue.named(name), *estimates))
    return found


def report(first: Path | str, second: Path | str) -> str:
    """What changed beyond noise, as Markdown."""
    found = compare(first, second)
    changed = [change for change in found if change.beyond_noise]
    rows = [
        [
            change.scenario, change.factors, mechanism_title(change.mechanism), change.metric.heading,
            text(change.metric, change.before), text(change.metric, change.after),
            text(change.metric, change.difference), change.word,
        ]
        for change in changed
    ]  # fmt: skip
    few = sum(change.difference.n < LEAST for change in found)
    said = f"{len(changed)} of {len(found)} figures that both have differ beyond noise: the 95 % interval of the"
    said += " difference of their medians leaves 0 out. Of so many, one in 20 does by chance."
    said += f" {few} have fewer than {LEAST} repetitions, and say nothing." if few else ""
    columns = ["scenario", "factors", "mechanism", "figure", "first", "second", "difference", ""]
    return f"{said}\n\n{markdown(Table('', columns, rows))}" if rows else said
