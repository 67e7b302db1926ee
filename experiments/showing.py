"""What there is, and what became of a plan, as tables."""

from __future__ import annotations

import inspect
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import mechanisms, scenarios
from experiments.judging import read_summary
from experiments.ledger import Entry, Ledger
from experiments.progress import COLOURS
from experiments.scenario import Factor
from mtcp import policy
from testbed.errors import TestbedError


def show_all(console: Console) -> None:
    """All scenarios with their factors, mechanisms and policies."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    for kind in scenarios.all_scenarios().values():
        say(f"[bold]{kind.name}[/]: {escape(_first_line(inspect.getmodule(kind)))}")
        say(f"  [dim]compares {', '.join(kind.mechanisms)}; policy {kind.policy}[/]")
        for name, factor in kind.factors.items():
            say(f"  {name:<12} {factor.default!s:<12} {escape(factor.meaning)}[dim]{escape(_usual(factor))}[/]")
    summaries = {name: kind.summary for name, kind in mechanisms.all_mechanisms().items()}
    for title, known in (("mechanisms", summaries), ("policies", policy.SUMMARIES)):
        say(f"[bold]{title}[/]")
        for name, meaning in known.items():
            say(f"  {name:<12} {escape(meaning)}")


def show_plan(ledger: Ledger, console: Console) -> None:
    """What became of the trials, each kind of them a row; why attempts did not succeed; then the headline figures."""
    kinds: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    varied = _varied(ledger)
    for entry in ledger.entries:
        trial = entry.trial
        factors = ", ".join(f"{name} {trial.factors[name]}" for name in varied if name in trial.factors)
        kinds[trial.scenario, factors, trial.mechanism, trial.policy].append(entry)
    named = ("scenario", "factors", "mechanism", "policy")
    shown = [i for i, name in enumerate(named) if name != "factors" or varied]
    table = Table(*(named[i] for i in shown), "verdicts", "attempts", box=box.SIMPLE)
    reasons: Counter[str] = Counter()
    order = {word: i for i, word in enumerate([*scenarios.all_scenarios(), *mechanisms.all_mechanisms()])}
    for kind, entries in sorted(kinds.items(), key=lambda item: [(order.get(word, -1), word) for word in item[0]]):
        attempts = sum(len(entry.attempts) for entry in entries)
        table.add_row(*(escape(kind[i]) for i in shown), _verdicts(entries), str(attempts))
        for attempt in (attempt for entry in entries for attempt in entry.attempts):
            if attempt.reason and attempt.verdict != "succeeded":
                reasons[f"{kind[0]} {kind[2]}: {attempt.verdict}: {attempt.reason}"] += 1
    console.print(table, highlight=False)
    for reason, count in sorted(reasons.items()):
        console.print(f"{count} x {escape(reason)}", soft_wrap=True, highlight=False)
    repeated = sum(max(0, len(entry.attempts) - 1) for entry in ledger.entries)
    console.print(f"{len(ledger.entries)} trials, {repeated} attempts more; the plan is {ledger.state}")
    try:
        _show_figures(read_summary(ledger.directory), console)
    except TestbedError:
        console.print("no report yet")
    console.print(str(ledger.directory), soft_wrap=True, highlight=False)


def _verdicts(entries: list[Entry]) -> str:
    counts = Counter(entry.verdict for entry in entries)
    return ", ".join(f"[{COLOURS.get(verdict, 'bold')}]{n} {verdict}[/]" for verdict, n in sorted(counts.items()))


def _varied(ledger: Ledger) -> list[str]:
    """Factors that have several values within a scenario."""
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in ledger.entries:
        for name, value in entry.trial.factors.items():
            values[entry.trial.scenario, name].add(str(value))
    return list(dict.fromkeys(name for (_, name), found in values.items() if len(found) > 1))


def _show_figures(figures: Mapping[str, Any], console: Console) -> None:
    """Those of a plan's summary.json: a table for each scenario and setting, a row for each mechanism."""
    for scenario, settings in figures["scenarios"].items():
        for setting, found in settings.items():
            names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
            table = Table(f"{scenario}, {setting}", *names, box=box.SIMPLE)
            for mechanism, metrics in found.items():
                table.add_row(mechanism, *(_estimate(metrics.get(name)) for name in names))
            console.print(table, highlight=False)


def _estimate(estimate: Mapping[str, Any] | None) -> str:
    """A median, and its confidence interval where there is one."""
    if estimate is None or estimate["value"] is None:
        return "-"
    low, high = estimate["ci95"]
    interval = "" if low is None else f" ({_text(low)} … {_text(high)})"
    return _text(estimate["value"]) + interval


def _text(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _usual(factor: Factor) -> str:
    parts = [f"sweep {', '.join(map(str, factor.sweep))}"] if factor.sweep else []
    parts += [f"small {factor.small}"] if factor.small is not None else []
    parts += [f"one of {', '.join(factor.choices)}"] if factor.choices else []
    return f"; {'; '.join(parts)}" if parts else ""


def _first_line(module: Any) -> str:
    return (inspect.getdoc(module) or "").split("\n", 1)[0].partition(": ")[2]
