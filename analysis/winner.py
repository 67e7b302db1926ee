"""Who won, by how much, and how sure that is: in words, for the first lines of a plan's report.

Of the share of goodput that is kept, over all scenarios. Mechanisms are compared only where both were tried: same
scenario, setting and seed.
"""

from __future__ import annotations

import pandas as pd

from analysis import comparing
from analysis.catalogue import METRICS
from analysis.comparing import in_order
from analysis.palette import mechanism_title
from analysis.statistics import Estimate

OURS, PLAIN = "mtcp", "tcp"
_METRIC = METRICS["kept"]
_SAME = " of the same scenario, setting and seed"


def verdict(values: pd.DataFrame) -> tuple[str, str]:
    """(who keeps most, how sure that is) of the values of `comparing.per_run`; ("", "") if nothing was compared."""
    values = values[values["metric"] == _METRIC.name]
    names = in_order(values["mechanism"])
    ahead = {name: _ahead(values, name, names) for name in names}
    compared = {name: found for name, found in ahead.items() if found}
    if not compared:
        return "", ""
    best = max(compared, key=lambda name: min(_points(each) for each in ahead[name].values()))
    alike = [name for name, difference in ahead[best].items() if not _is_certain(difference)]
    first = in_order(pd.Series([best, *alike]))
    return _who(values, first, ahead[best]), " ".join(_how_sure(values, best, alike, ahead[best]))


def _ahead(values: pd.DataFrame, name: str, names: list[str]) -> dict[str, Estimate]:
    """By how much it is ahead of each other that it can be compared with."""
    found = {other: comparing.paired(values, _METRIC.name, name, other).difference for other in names if other != name}
    return {other: difference for other, difference in found.items() if difference.n}


def _who(values: pd.DataFrame, first: list[str], ahead: dict[str, Estimate]) -> str:
    """Those that cannot be told apart from the best, and what plain TCP does."""
    names, several = _capital(" and ".join(map(mechanism_title, first))), len(first) > 1
    verb, whose = ("keep", "their") if several else ("keeps", "its")
    if PLAIN not in ahead or PLAIN in first:
        return f"{names} {verb} most of {whose} goodput after the fault"
    shares = list(dict.fromkeys(_where_both(values, name, PLAIN)[0] for name in first))
    _, of_tcp = _where_both(values, first[0], PLAIN)
    return f"{names} {verb} {' and '.join(shares)} % of {whose} goodput after the fault, plain TCP {of_tcp} %"


def _how_sure(values: pd.DataFrame, best: str, alike: list[str], ahead: dict[str, Estimate]) -> list[str]:
    """Sentences: about those who may be as good, about who comes next, and about M-TCP."""
    said, name = [], mechanism_title(best)

    def nearest_of(others: list[str]) -> tuple[str, tuple[str, str], str]:
        """Which one it is, both shares, and the difference."""
        nearest = min(others, key=lambda other: _points(ahead[other]))
        difference = f"{_more(ahead[nearest], 'more')} in the median of {_pairs(ahead[nearest].n)}{_SAME}."
        return nearest, _where_both(values, best, nearest), difference

    if alike:
        nearest, (mine, other), difference = nearest_of(alike)
        shares = f"{name} {mine}, {mechanism_title(nearest)} {other} %"
        said.append(f"Which of them keeps more is not certain: {shares}, {difference}")
    behind = [other for other in ahead if other not in alike]
    if behind:
        nearest, (mine, other), difference = nearest_of(behind)
        how = f"{_capital(name)} is ahead of" if alike else "It is ahead of"
        said.append(f"{how} {mechanism_title(nearest)}: {mine} to {other} %, {difference}")
        if OURS in behind and nearest != OURS:
            _, share = _where_both(values, best, OURS)
            said.append(f"{mechanism_title(OURS)} keeps {share} %: {_more(ahead[OURS], 'less')}.")
    # Once is enough.
    return [each.replace(_SAME, "") if place else each for place, each in enumerate(said)]


def _is_certain(difference: Estimate) -> bool:
    return difference.low is not None and difference.low > 0


def _more(difference: Estimate, word: str) -> str:
    """So many points more, with the interval."""
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f" (95 % interval {difference.low * 100:.0f} … {difference.high * 100:.0f})"
    return f"{_points(difference) * 100:.0f} points {word}{interval}".replace("-", "−")


def _points(difference: Estimate) -> float:
    assert difference.value is not None
    return difference.value


def _pairs(count: int) -> str:
    return f"{count} pairs" if count != 1 else "1 pair"


def _where_both(values: pd.DataFrame, first: str, second: str) -> tuple[str, str]:
    """The medians of two mechanisms, over the repetitions that both have made."""
    index = [*comparing.SETTING, "seed", "repetition"]
    table = values.pivot_table(index=index, columns="mechanism", values="value", aggfunc="last")
    both = table[[first, second]].dropna().median()
    return _METRIC.text(both[first]), _METRIC.text(both[second])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
