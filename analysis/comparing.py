"""Many runs side by side. The repetition is the unit: samples within a run are never taken for replicates.

A setting is a scenario with values of its factors and a policy; a cell is a setting and a mechanism. Runs that failed
count with what they reached, else who breaks early would look good; those that are invalid or unsupported do not, and
`verdicts` says how many they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import observations, statistics
from analysis.observations import RUN_COLUMNS, VERDICTS
from analysis.statistics import Estimate

COUNTED = ("succeeded", "failed")
MECHANISMS = ("mtcp", "tcp", "reconnect", "mptcp", "quic")
"""In the order in which they are shown; others come after these."""
SETTING = ["scenario", "factors", "policy"]
CELL = [*SETTING, "mechanism"]
USUAL = "usual"
"""The name of a scenario's only setting."""


def in_order(mechanisms: Iterable[str]) -> list[str]:
    """Each of them once, in the order in which they are shown."""
    found = list(dict.fromkeys(mechanisms))
    return sorted(found, key=lambda name: MECHANISMS.index(name) if name in MECHANISMS else len(MECHANISMS))


def per_run(loaded: pd.DataFrame, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """One value a run and metric, of the runs that count: columns RUN_COLUMNS, `metric`, `value`.

    The value for the run as a whole if there is one, else the median of what was observed in the course of it (such as
    of each move).
    """
    rows = loaded[loaded["verdict"].isin(COUNTED) & (loaded["metric"] != "")]
    if metrics is not None:
        rows = rows[rows["metric"].isin(metrics)]
    whole = rows["time"].isna()
    keys = [rows["run_id"], rows["metric"]]
    rows = rows[whole | ~whole.groupby(keys).transform("any")]
    values = rows.groupby(["run_id", "metric"], sort=False)["value"].median().reset_index()
    return values.merge(observations.runs(loaded), on="run_id")[[*RUN_COLUMNS, "metric", "value"]]


def estimates(values: pd.DataFrame, by: Sequence[str] = CELL) -> pd.DataFrame:
    """Of the values of `per_run`: a row for each of `by` and metric, with an `estimate` of the median."""
    rows = [
        (*key, statistics.median(group["value"])) for key, group in values.groupby([*by, "metric"], sort=False)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=[*by, "metric", "estimate"])


def verdicts(loaded: pd.DataFrame, by: Sequence[str] = CELL) -> pd.DataFrame:
    """How many runs there are of each: `by`, and a column for each of VERDICTS."""
    runs = observations.runs(loaded)
    counts = runs.groupby([*by, "verdict"], sort=False).size().unstack(fill_value=0)
    return counts.reindex(columns=list(VERDICTS), fill_value=0).reset_index()


def settings(loaded: pd.DataFrame) -> pd.DataFrame:
    """Every setting: columns SETTING and `setting`, its name within the scenario: what varies in it, or USUAL."""
    found = loaded[SETTING].drop_duplicates().reset_index(drop=True)
    names = {}
    for _, group in found.groupby("scenario", sort=False):
        varied = varying(group)
        for index, text, policy in zip(group.index, group["factors"], group["policy"], strict=True):
            known: dict[str, Any] = {**json.loads(text), "policy": policy}
            names[index] = ", ".join(f"{name}={_short(known.get(name))}" for name in varied) or USUAL
    found["setting"] = pd.Series(names, dtype="str")
    return found


def varying(group: pd.DataFrame) -> list[str]:
    """Names of factors (and "policy") that have several values in these rows with `factors` and `policy`."""
    each = [
        {**json.loads(text), "policy": policy}
        for text, policy in zip(group["factors"], group["policy"], strict=True)
    ]  # fmt: skip
    names = dict.fromkeys(name for known in each for name in known)
    return [name for name in names if len({str(known.get(name)) for known in each}) > 1]


@dataclass(frozen=True)
class Paired:
    """One mechanism against another, repetition by repetition: same scenario, factors, policy, seed."""

    difference: Estimate
    """Median of first minus second."""
    ratio: Estimate
    """Median of first over second; none where a second is 0."""
    delta: float | None
    """Cliff's delta (statistics.cliffs_delta), the mean of the settings'."""


def paired(values: pd.DataFrame, metric: str, first: str, second: str) -> Paired:
    """Two mechanisms by one metric of `per_run`'s values, over all settings in them."""
    of_metric = values[values["metric"] == metric]
    table = of_metric.pivot_table(
        index=[*SETTING, "seed", "repetition"], columns="mechanism", values="value", aggfunc="last"
    )
    if first not in table or second not in table:
        nothing = statistics.median([])
        return Paired(nothing, nothing, None)
    pairs = table[[first, second]].dropna()
    one, other = pairs[first].to_numpy(np.float64), pairs[second].to_numpy(np.float64)
    ratios = one[other > 0] / other[other > 0] if (other > 0).all() else np.empty(0)
    deltas = [statistics.cliffs_delta(group[first], group[second]) for _, group in pairs.groupby(level=SETTING)]
    delta = float(np.mean([each for each in deltas if each is not None])) if deltas else None
    return Paired(statistics.median(one - other), statistics.median(ratios), delta)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
