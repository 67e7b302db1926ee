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


def verdict(values: pd.DataFrame) -> tuple[str, str]:
    """(who keeps most, how sure that is) of the values of `comparing.per_run`; ("", "") if nothing was compared."""
    values = values[values["metric"] == _METRIC.name]
    names = in_order(values["mechanism"])
    ahead = {name: _ahead(values, name, names) for name in names}
    compared = {name: found for name, found in ahead.items() if found}
    if not compared:
        return "", ""
    best = max(compared, key=lambda name: min(_points(each) for each in ahead[name].values()))
    nearest = min(ahead[best], key=lambda name: _points(ahead[best][name]))
    return _who(values, best, ahead[best]), " ".join(_how_sure(values, best, nearest, ahead[best]))


def _ahead(values: pd.DataFrame, name: str, names: list[str]) -> dict[str, Estimate]:
    """By how much it is ahead of each other that it can be compared with."""
    found = {other: comparing.paired(values, _METRIC.name, name, other).difference for other in names if other != name}
    return {other: difference for other, difference in found.items() if difference.n}


def _who(values: pd.DataFrame, best: str, ahead: dict[str, Estimate]) -> str:
    name = _capital(mechanism_title(best))
    if PLAIN not in ahead:
        return f"{name} keeps most of its goodput after the fault"
    share, of_tcp = _where_both(values, best, PLAIN)
    return f"{name} keeps {share} % of its goodput after the fault, plain TCP {of_tcp} %"


def _how_sure(values: pd.DataFrame, best: str, nearest: str, ahead: dict[str, Estimate]) -> list[str]:
    """Sentences: about who comes nearest, and about M-TCP."""
    found = ahead[nearest]
    certain = found.low is not None and found.low > 0
    how = "It is ahead of" if certain else "That is not more, for certain, than"
    shares = " to ".join(_where_both(values, best, nearest))
    said = [
        f"{how} {mechanism_title(nearest)}: {shares} %, {_more(found, 'more')} "
        f"in the median of {_pairs(found.n)} of the same scenario, setting and seed."
    ]
    if best != OURS and nearest != OURS and OURS in ahead:
        _, share = _where_both(values, best, OURS)
        said.append(f"{mechanism_title(OURS)} keeps {share} %: {_more(ahead[OURS], 'less')}.")
    return said


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
