"""The testbed's bars: what the observations of `make bench-testbed` say of each, and the table of them.

Intervals are of 95 %: of quantiles by order statistics (free of distributions), of medians of few repetitions by
bootstrap, of counts by the binomial distribution.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta, binom

from analysis import statistics
from analysis.run import RunError, read_object

_COLUMNS = ("bar", "case", "quantity", "value", "repetition", "busy_before", "busy")
BEGIN, END = "<!-- bench-testbed: begin -->", "<!-- bench-testbed: end -->"
PAYLOAD = 1448 / 1514
"""TCP's, of a full-sized frame, with time stamps."""


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    bar: str
    case: str
    measured: str
    """With its interval."""
    wanted: str
    met: bool
    n: int
    busy: str = ""
    """Share of the processors' time that was used before, without us, and meanwhile."""


@dataclass(frozen=True)
class Quantile:
    """A quantile and its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} … {self.high:.3g})"


def quantile(values: NDArray[np.float64], q: float) -> Quantile:
    """The quantile `q` of `values`, of which there is at least one."""
    ordered = np.sort(values)
    last = len(ordered) - 1
    low, high = (int(rank) for rank in binom.interval(statistics.CONFIDENCE, len(ordered), q))
    return Quantile(float(np.quantile(ordered, q)), float(ordered[max(0, low - 1)]), float(ordered[min(last, high)]))


def summarise(directory: Path | str, page: Path | None = None) -> dict[str, Any]:
    """Write summary.json and table.md into the benchmark's directory, and the table into `page`; the summary.

    RunError when it is no such directory, or the page has no place for the table.
    """
    directory = Path(directory).resolve()
    record = read_object(directory / "run.json", ("facts", "versions", "git"))
    try:
        samples = pd.read_parquet(directory / "samples.parquet", columns=list(_COLUMNS))
    except (OSError, ValueError) as error:
        raise RunError(f"{directory} has no benchmark of the testbed: {str(error).splitlines()[0]}") from None
    lines: list[Line] = []
    for bar, group in samples.groupby("bar", sort=False):
        lines += [replace(line, busy=_load(group, line.case)) for line in _BARS[str(bar)](group)]
    missing = record["facts"]["failures"]
    unmet = [f"{line.bar}, {line.case}: {line.measured}, wanted {line.wanted}" for line in lines if not line.met]
    reasons = [f"{name} was not measured: {why}" for name, why in missing.items()] + unmet
    verdict = "invalid" if missing else "failed" if unmet else "succeeded"
    figures = {
        "verdict": verdict,
        "reason": "; ".join(reasons) or f"all {len(lines)} bars met",
        "bars": [asdict(line) for line in lines],
    }
    table = _table(record, lines, missing)
    (directory / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    (directory / "table.md").write_text(table)
    if page is not None:
        insert(page, table)
    return figures


def insert(page: Path, table: str) -> None:
    """Put the table between its markers on the page; RunError when there are none."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise RunError(f"{page} has no lines {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table}{END}{rest.partition(END)[2]}")


def _table(record: dict[str, Any], lines: list[Line], missing: dict[str, str]) -> str:
    rows = ["| | case | measured (95 % interval) | wanted | n | busy before / meanwhile | |", "|" + "---|" * 7]
    for line in lines:
        met = "met" if line.met else "**not met**"
        rows.append(
            f"| {line.bar} | {line.case} | {line.measured} | {line.wanted} | {line.n:,} | {line.busy} | {met} |"
        )
    rows += [f"| {name} | | not measured | | | | **not met** |" for name in missing]
    versions, load = record["versions"], record.get("host_load", {})
    where = f"Linux {versions['kernel']}, {load.get('cores', '?')} cores, links by {record['emulation']}"
    code = record["git"].get("commit", "?")[:10] + (", modified" if record["git"].get("modified") else "")
    return "\n".join([*rows, "", f"Run {record['run_id']}: {where}; code {code}.", ""])


def _load(group: pd.DataFrame, case: str) -> str:
    """Of the sandboxes that the case was measured in."""
    of_case = group["case"] == case
    group = group[of_case] if of_case.any() else group
    return f"{group['busy_before'].iloc[0]:.0%} / {group['busy'].iloc[0]:.0%}"


def _values(group: pd.DataFrame, quantity: str) -> NDArray[np.float64]:
    return group.loc[group["quantity"] == quantity, "value"].to_numpy(np.float64)


def _cases(group: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for case, rows in group.groupby("case", sort=False):
        yield str(case), rows


def _rtt(group: pd.DataFrame) -> Iterator[Line]:
    for case, rows in _cases(group):
        errors = _values(rows, "rtt_error_ms")
        lost = int(np.isnan(errors).sum())
        errors = errors[~np.isnan(errors)]
        limits = [(0.5, 0.3), (0.99, 1.5)] if "idle" in case else [(0.95, 1.0)]
        for q, limit in limits:
            found = quantile(errors, q)
            name = "median" if q == 0.5 else f"p{q * 100:.0f}"
            measured = f"{name} {found} ms" + (f", {lost} lost" if lost else "")
            met = found.value <= limit and not lost
            yield Line("RTT error", case, measured, f"{name} ≤ {limit:g} ms", met, len(errors))


def _rate(group: pd.DataFrame) -> Iterator[Line]:
    for case, rows in _cases(group):
        found = statistics.median(_values(rows, "goodput_mbit"))
        assert found.value is not None
        mbit = float(case.split()[0])
        limit = mbit * PAYLOAD
        measured = f"{_interval(found)} Mbit/s, {found.value / limit - 1:+.2%} of {limit:.4g}"
        if mbit >= 1000:
            yield Line("goodput", f"{case}, 10 ms each way", measured, "≥ 900 Mbit/s", found.value >= 900, found.n)
        else:
            met = abs(found.value / limit - 1) <= 0.02
            yield Line("goodput", f"{case}, 10 ms each way", measured, "± 2 %", met, found.n)


def _loss(group: pd.DataFrame) -> Iterator[Line]:
    for case, rows in _cases(group):
        sent, lost = int(_values(rows, "sent").sum()), int(_values(rows, "lost").sum())
        asked = float(case.split()[0]) / 100
        low, high = (int(each) for each in binom.interval(statistics.CONFIDENCE, sent, asked))
        tail = (1 - statistics.CONFIDENCE) / 2
        least = beta.ppf(tail, lost, sent - lost + 1) if lost else 0.0
        most = beta.ppf(1 - tail, lost + 1, sent - lost)
        measured = f"{lost / sent * 100:.3g} ({least * 100:.3g} … {most * 100:.3g}) %: {lost:,} lost"
        yield Line("loss", case, measured, f"{low:,} to {high:,} lost", low <= lost <= high, sent)


def _buffer(group: pd.DataFrame) -> Iterator[Line]:
    for case, rows in _cases(group):
        rises, theory = _values(rows, "rise_ms"), _values(rows, "theory_ms")
        ratio = statistics.ratio(rises.tolist(), theory.tolist())
        assert ratio.value is not None
        measured = f"{np.median(rises):.4g} ms: {_interval(ratio)} of theory's {theory[0]:.4g} ms"
        met = abs(ratio.value - 1) <= 0.15
        yield Line("RTT rise of a full buffer of 100", case, measured, "± 15 %", met, ratio.n)


def _live(group: pd.DataFrame) -> Iterator[Line]:
    for case, rows in _cases(group):
        sent, changes, lost, late = (int(_values(rows, q).sum()) for q in ("sent", "changes", "lost", "reordered"))
        measured = f"{lost} lost, {late} reordered"
        yield Line("live changes", f"{changes} of {case}", measured, "0, 0", lost == late == 0, sent)


def _worst(name: str, unit: str, limit: float) -> Callable[[pd.DataFrame], Iterator[Line]]:
    def lines(group: pd.DataFrame) -> Iterator[Line]:
        for case, rows in _cases(group):
            values = _values(rows, "seconds")
            found = statistics.median(values)
            measured = f"{_interval(found)} {unit}, at most {values.max():.3g}"
            yield Line(name, case, measured, f"≤ {limit:g} {unit}", bool(values.max() <= limit), found.n)

    return lines


def _identical(group: pd.DataFrame) -> Iterator[Line]:
    for case, rows in _cases(group):
        errors = rows[rows["quantity"] == "rtt_error_ms"].groupby("repetition")["value"].median()
        goodput = _values(rows, "goodput_mbit")
        limit = 20 * PAYLOAD
        far = float(errors.abs().max())
        measured = f"{goodput.min():.4g} … {goodput.max():.4g} of {limit:.4g} Mbit/s, RTTs off by {far:.2g} ms at most"
        met = bool((np.abs(goodput / limit - 1) <= 0.02).all() and far <= 1.0)
        yield Line("sandboxes, same names", case, measured, "each ± 2 %, its own RTT ± 1 ms", met, len(goodput))


def _syn_flood(group: pd.DataFrame) -> Iterator[Line]:
    for case, rows in _cases(group):
        found = statistics.median(_values(rows, "packets_per_second"))
        assert found.value is not None
        low, high = (f"{each:,.0f}" if each is not None else "?" for each in (found.low, found.high))
        measured = f"{found.value:,.0f} ({low} … {high}) packets/s"
        yield Line("SYN flood", case, measured, "≥ 50,000 packets/s", found.value >= 50_000, found.n)


def _interval(found: statistics.Estimate) -> str:
    if found.low is None or found.high is None:
        return f"{found.value:.4g}"
    return f"{found.value:.4g} ({found.low:.4g} … {found.high:.4g})"


_BARS: dict[str, Callable[[pd.DataFrame], Iterator[Line]]] = {
    "rtt": _rtt,
    "rate": _rate,
    "loss": _loss,
    "buffer": _buffer,
    "live": _live,
    "death": _worst("death of the emulator noticed", "s", 1.0),
    "up_and_down": _worst("network up and down", "s", 1.5),
    "identical": _identical,
    "syn_flood": _syn_flood,
}
