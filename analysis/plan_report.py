"""The report on a plan: one HTML page that needs nothing else, its figures as files, and summary.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from analysis import catalogue, comparing, observations, plan_pictures, statistics, svg, tables, winner
from analysis.catalogue import METRICS
from analysis.comparing import in_order
from analysis.palette import LIGHT, image, mechanism_colour, mechanism_title, save
from analysis.plan_pictures import Picture, View
from analysis.plans import Plan
from analysis.run import Run

_TEMPLATES = Path(__file__).parent / "templates"
MUCH_MORE = 1.1
"""Of the goodput before."""
PAGE, SUMMARY, FIGURES = "report.html", "summary.json", "figures"


def write(directory: Path | str) -> Path:
    """Write report.html, summary.json and figures/ of the plan whose trials have been judged; the page's path.

    RunError if the directory is no plan.
    """
    view = View(Plan.load(directory))
    path = view.plan.path
    (path / SUMMARY).write_text(json.dumps(summary(view), indent=2) + "\n")
    (path / FIGURES).mkdir(exist_ok=True)
    page = path / PAGE
    page.write_text(_render(view))
    return page


def summary(view: View) -> dict[str, Any]:
    """The headline figures under stable keys: scenarios, setting, mechanism, metric."""
    plan = view.plan
    runs = observations.runs(plan.loaded)
    found: dict[str, Any] = {
        "schema_version": observations.SCHEMA_VERSION,
        "experiment": plan.name,
        "plan_id": plan.id,
        "runs": {word: int((runs["verdict"] == word).sum()) for word in observations.VERDICTS},
        "pending": plan.pending,
        "scenarios": {},
    }
    for scenario in plan.scenarios:
        values = view.of(scenario)
        headline = view.headline(scenario)
        metrics = [*([headline] if headline else []), *catalogue.companions(set(values["metric"]), headline)]
        names = [
            *(metric.name for metric in metrics),
            *(["floor_ratio"] if "floor_ratio" in set(values["metric"]) else []),
        ]
        of_scenario: dict[str, Any] = {}
        for setting in view.settings(scenario):
            of_setting = values[values["setting"] == setting]
            of_scenario[setting] = {
                mechanism: {
                    name: statistics.median(
                        of_setting.loc[(of_setting["mechanism"] == mechanism) & (of_setting["metric"] == name), "value"]
                    ).as_dict()
                    for name in names
                }
                for mechanism in in_order(of_setting["mechanism"])
            }
        found["scenarios"][scenario] = of_scenario
    return found


def _render(view: View) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    plan = view.plan
    runs, mechanisms = plan.runs(), in_order(plan.loaded["mechanism"])
    said, sure = winner.verdict(view.values)
    headlines = list(plan_pictures.headlines(view))
    shown = {picture.name for picture in headlines}
    first_screen = tables.first_screen(view, mechanisms)
    return environment.get_template("plan.html.j2").render(
        plan=plan,
        said=said,
        sure=sure,
        counts=tables.verdict_text(comparing.verdicts(plan.loaded)[list(observations.VERDICTS)].sum()),
        mechanisms=[(name, mechanism_title(name), mechanism_colour(name)) for name in mechanisms],
        first_screen=first_screen,
        usual_runs=Counter(cell.runs for _, _, cells in first_screen for cell in cells if cell).most_common(1)[0][0],
        headlines=[_shown(picture, plan.path) for picture in headlines],
        scenarios=[
            _section(view, name, [run for run in runs if run.scenario == name], shown) for name in plan.scenarios
        ],
        runs=_listed(runs, observations.runs(plan.loaded).set_index("run_id")),
        provenance=_provenance(plan, runs),
    )


def _section(view: View, scenario: str, runs: list[Run], shown: Collection[str]) -> dict[str, Any]:
    """What the page says of a scenario, without the pictures that it has `shown` already."""
    mine = observations.runs(view.loaded[view.loaded["scenario"] == scenario])
    about = view.plan.about(scenario)
    meanings: dict[str, str] = about.get("factors", {})
    values: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in run.factors.items():
            values.setdefault(name, [])
            values[name] += [value] if value not in values[name] else []
    reasons = Counter(
        (word, mechanism, reason)
        for word, mechanism, reason in zip(mine["verdict"], mine["mechanism"], mine["reason"], strict=True)
        if word != "succeeded"
    )
    return {
        "name": scenario,
        "done": [" ".join(part.split()) for part in str(about.get("done", "")).split("\n\n") if part],
        "factors": [
            (name, meanings.get(name, ""), ", ".join(map(_short, sorted(found, key=_by_size))))
            for name, found in values.items()
        ],
        "policies": ", ".join(sorted(set(mine["policy"]))),
        "repetitions": int(mine["repetition"].nunique()),
        "emulation": ", ".join(sorted(set(mine["emulation"]))),
        "pictures": [
            _shown(picture, view.plan.path)
            for picture in plan_pictures.of_scenario(view, scenario)
            if picture.name not in shown
        ],
        "tables": tables.of_scenario(view, scenario),
        "paired": tables.against(view, scenario),
        "reasons": [(n, word, mechanism_title(name), reason) for (word, name, reason), n in sorted(reasons.items())],
        "unfair": _unfair(view, scenario),
        "meanings": _meanings(view, scenario),
    }


def _unfair(view: View, scenario: str) -> list[str]:
    """Runs that had clearly more goodput after the fault than before: what was before is no fair reference."""
    values = view.of(scenario)
    found = values[(values["metric"] == "kept") & (values["value"] > MUCH_MORE)]
    return [
        f"{mechanism_title(name)} #{repetition}, {value:.0%}"
        for name, repetition, value in zip(found["mechanism"], found["repetition"], found["value"], strict=True)
    ]


def _meanings(view: View, scenario: str) -> list[tuple[str, str]]:
    shown = catalogue.shown(set(view.of(scenario)["metric"]))
    return [(metric.title, metric.meaning) for metric in shown if metric.name in METRICS]


def _shown(picture: Picture, path: Path) -> dict[str, str]:
    """The picture's files written, and what the page needs of it."""
    file = path / FIGURES / picture.name
    save(picture.draw(LIGHT, "wide"), file)
    drawn = file.with_name(f"{file.name}.svg").read_bytes()
    narrow = image(picture.draw(LIGHT, "narrow"), "svg", LIGHT.paper)
    return {
        "title": picture.title,
        "caption": picture.caption,
        "file": f"{FIGURES}/{picture.name}",
        "wide": svg.inline(drawn, f"{picture.name}-w", f"{picture.title}. {picture.caption}"),
        "narrow": svg.inline(narrow, f"{picture.name}-n", picture.title),
    }


def _listed(runs: list[Run], judged: pd.DataFrame) -> list[dict[str, Any]]:
    """Every run, with what is beside it."""
    listed = []
    for run in runs:
        row = judged.loc[run.id]
        captures = sorted(file.name for file in run.path.glob("*.pcap*"))
        listed.append({
            "id": run.id, "path": str(run.path.relative_to(run.path.parents[1])), "scenario": run.scenario,
            "factors": ", ".join(f"{name}={_short(value)}" for name, value in run.factors.items()),
            "mechanism": mechanism_title(run.mechanism), "repetition": str(row["repetition"]), "seed": str(row["seed"]),
            "verdict": str(row["verdict"]), "reason": str(row["reason"]), "captures": captures,
        })  # fmt: skip
    return listed


def _provenance(plan: Plan, runs: list[Run]) -> list[tuple[str, str]]:
    """What the figures depend on, beside the factors: (name, values that occurred)."""

    def of_all(*keys: str) -> str:
        found: list[str] = []
        for run in runs:
            value: Any = run.record
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            found += [str(value)] if value is not None and str(value) not in found else []
        return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")

    def range_of(what: str) -> str:
        found = [load[what] for run in runs if (load := run.record.get("host_load", {})).get(what) is not None]
        return f"{min(found):.0%} … {max(found):.0%} of their time" if found else "?"

    started = sorted(str(run.record.get("started", ""))[:16].replace("T", " ") for run in runs)
    rows = [
        ("plan", f"{plan.name}/{plan.id}"), ("seed of the plan", str(plan.metadata.get("seed", "?"))),
        ("performed", f"{started[0]} … {started[-1]} UTC" if started else "?"), ("code", of_all("git", "commit")),
        ("code modified since", of_all("git", "modified")), ("kernel", of_all("versions", "kernel")),
        ("links by", of_all("emulation")), ("processors", of_all("host_load", "cores")),
        ("processors busy, by run", range_of("busy")), ("processors stolen by other machines", range_of("stolen")),
        ("Python", of_all("versions", "python")), ("captured by", of_all("versions", "tcpdump")),
    ]  # fmt: skip
    return [(name, value) for name, value in rows if value]


def _by_size(value: Any) -> tuple[bool, float, str]:
    return isinstance(value, str), 0.0 if isinstance(value, str) else float(value), str(value)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
