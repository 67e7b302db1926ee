"""Plans: statistics over repetitions, tables, and a report that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import (
    changes,
    comparing,
    observations,
    palette,
    plan_figures,
    plan_pictures,
    plan_report,
    statistics,
    tables,
    winner,
)
from analysis.__main__ import main
from analysis.catalogue import METRICS, named
from analysis.plan_pictures import View
from analysis.plans import Plan
from analysis.run import RunError
from analysis.synthetic_plans import write_plan

pytestmark = pytest.mark.unit

LINKS = {"rtt": [20.0]}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenarios, three mechanisms, three repetitions; `state-size` has a swept factor."""
    directory = tmp_path_factory.mktemp("experiment") / "20260101T000000-abcd"
    return write_plan(directory, {"dos": LINKS, "state-size": {"state": [0, 5000, 1_000_000]}}, 3,
                      ("mtcp", "tcp", "mptcp"))  # fmt: skip


@pytest.fixture(scope="module")
def view(plan: Path) -> View:
    """The plan, prepared."""
    return View(Plan.load(plan))


def values_of(*rows: tuple[str, str, int, float]) -> pd.DataFrame:
    """(mechanism, factors, repetition, value) as of comparing.per_run."""
    frame = pd.DataFrame(rows, columns=["mechanism", "factors", "repetition", "value"])
    return frame.assign(scenario="x", policy="p", seed=frame["repetition"], metric="kept", run_id=frame.index)


def test_the_repetition_is_the_unit(view: View) -> None:
    loaded = view.plan.loaded
    values = comparing.per_run(loaded, ["move_stall_ms", "kept"])
    assert len(values) == values.groupby(["run_id", "metric"]).ngroups
    kept = values[(values["metric"] == "kept") & (values["scenario"] == "dos")]
    assert kept.groupby("mechanism").size().to_dict() == {"mtcp": 3, "tcp": 3}
    found = comparing.estimates(kept, ["mechanism"]).set_index("mechanism")["estimate"]
    assert found["mtcp"].n == 3
    assert found["mtcp"].value == kept.loc[kept["mechanism"] == "mtcp", "value"].median()


def test_a_figure_of_the_whole_run_wins_over_those_in_its_course() -> None:
    rows = [("a", "m", np.nan, 5.0), ("a", "m", 1.0, 7.0), ("a", "n", 1.0, 1.0), ("a", "n", 2.0, 3.0)]
    frame = pd.DataFrame(rows, columns=["run_id", "metric", "time", "value"])
    about = dict.fromkeys(["scenario", "factors", "mechanism", "policy", "emulation", "reason"], "x")
    frame = frame.assign(**about, repetition=1, seed=1, verdict="succeeded")
    assert comparing.per_run(frame).set_index("metric")["value"].to_dict() == {"m": 5.0, "n": 2.0}


def test_what_does_not_count_is_counted(view: View) -> None:
    counts = comparing.verdicts(view.plan.loaded, ["scenario", "mechanism"]).set_index(["scenario", "mechanism"])
    assert counts.loc[("dos", "mtcp")].to_dict() == {"succeeded": 3, "failed": 0, "unsupported": 0, "invalid": 1}
    assert counts.loc[("dos", "mptcp"), "unsupported"] == 3


def test_pairs_have_the_same_seed_and_factors() -> None:
    values = values_of(
        ("mtcp", "{}", 1, 10.0), ("tcp", "{}", 1, 8.0), ("mtcp", "{}", 2, 5.0), ("tcp", "{}", 2, 4.0),
        ("mtcp", '{"a": 1}', 1, 100.0), ("mtcp", "{}", 3, 9.0), ("tcp", "{}", 4, 1.0),
    )  # fmt: skip
    found = comparing.paired(values, "kept", "mtcp", "tcp")
    assert (found.difference.value, found.difference.n) == (1.5, 2)
    assert found.ratio.value == pytest.approx(1.25)
    assert found.delta == pytest.approx(0.5)  # 10 > 8, 10 > 4, 5 < 8, 5 > 4
    assert comparing.paired(values, "kept", "mtcp", "quic").difference.n == 0


def test_effect_size() -> None:
    assert statistics.cliffs_delta([3, 4], [1, 2]) == 1
    assert statistics.cliffs_delta([1, 2], [1, 2]) == 0
    assert statistics.cliffs_delta([], [1]) is None


def test_settings_are_called_by_what_varies(view: View) -> None:
    assert view.settings("dos") == [comparing.USUAL]
    assert view.settings("state-size") == ["state=0", "state=5000", "state=1000000"]


def test_summary_has_stable_keys(view: View) -> None:
    found = plan_report.summary(view)
    assert list(found) == ["schema_version", "experiment", "plan_id", "runs", "pending", "scenarios"]
    assert found["runs"] == {"succeeded": 33, "failed": 0, "unsupported": 3, "invalid": 1}
    kept = found["scenarios"]["dos"]["usual"]["mtcp"]["kept"]
    assert (
        list(kept) == ["value", "ci95", "n"] and kept["n"] == 3 and kept["ci95"][0] <= kept["value"] <= kept["ci95"][1]
    )
    first = found["scenarios"]["state-size"]["state=5000"]["mtcp"]["first_byte_ms"]
    assert first["value"] == pytest.approx(1.2 * 20.4)
    assert found["pending"] == 0


def test_the_report_says_who_won_and_how_sure_that_is(view: View) -> None:
    said, sure = winner.verdict(view.values)
    assert re.fullmatch(r"M-TCP keeps 9\d % of its goodput after the fault, plain TCP 1\d %", said)
    pattern = (
        r"It is ahead of MPTCP: 9\d to [34]\d %, 5\d points more \(95 % interval \d+ … \d+\) in the median of 9 pairs"
    )
    assert re.match(pattern, sure)


def test_who_won_is_not_certain_when_the_interval_says_so() -> None:
    rows = [("reconnect", "{}", i, kept) for i, kept in enumerate((0.8, 0.81, 0.79))]
    rows += [("quic", "{}", i, kept) for i, kept in enumerate((0.75, 0.85, 0.7))]
    rows += [("mtcp", "{}", i, kept) for i, kept in enumerate((0.6, 0.6, 0.5))]
    said, sure = winner.verdict(values_of(*rows))
    assert said == "Reconnect and QUIC keep most of their goodput after the fault"
    assert sure == (
        "Which of them keeps more is not certain: reconnect 80, QUIC 75 %, 5 points more (95 % interval −4 … 9) in the "
        "median of 3 pairs of the same scenario, setting and seed. Reconnect is ahead of M-TCP: 80 to 60 %, 21 points "
        "more (95 % interval 20 … 29) in the median of 3 pairs."
    )


def test_nobody_wins_who_was_not_compared(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "x" / "y", {"dos": LINKS}, 2, ("mtcp", "mptcp"))
    assert winner.verdict(View(Plan.load(plan)).values) == ("", "")


def test_the_report_is_one_page(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "try" / "one", {"dos": LINKS}, 2, ("mtcp", "mptcp"))
    (plan / "runs" / "20260101T000000-00000" / "s1.pcap1").write_bytes(b"")
    assert main(["report", str(plan)]) == 0
    page = (plan / "report.html").read_text()
    assert 'href="runs/20260101T000000-00000/s1.pcap1"' in page
    provenance = {
        "code": "0123456789abcdef", "code modified since": "False", "kernel": "6.18", "links by": "delay-line",
        "processors": "2", "processors busy, by run": "40% … 40% of their time", "seed of the plan": "1",
    }  # fmt: skip
    for name, value in provenance.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page
    assert "<td>101</td>" in page and "rtt=20" in page  # a run's seed and its factors
    assert not re.search(r"(src|srcset|href)=\"(https?:|//)", page)
    assert "unsupported" in page and "no second path" in page and "the machine stood still" in page
    links = set(re.findall(r'href="([^"#:]+)"', page))
    assert links and all((plan / link).exists() for link in links)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', page)) <= set(ids)
    assert palette.LIGHT.ink not in page.replace("--ink: " + palette.LIGHT.ink, "")
    assert json.loads((plan / "summary.json").read_text())["experiment"] == plan.parent.name


def test_tables_go_between_their_markers(plan: Path, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    for _ in range(2):
        assert main(["tables", str(plan), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.count("### state-size") == 1
    assert "|  | M-TCP | TCP | MPTCP |" in text
    assert re.search(r"\| goodput kept \[%\] \| 9\d \(\d+ … \d+\) \| 1\d \(\d+ … \d+\) \| – \|", text)
    assert "| runs | 3 succeeded, 1 invalid | 3 succeeded | 3 unsupported |" in text
    page.write_text("no markers")
    assert main(["tables", str(plan), "--page", str(page)]) == 2


def test_every_figure_can_be_narrow(view: View) -> None:
    for picture in plan_pictures.of_scenario(view, "state-size"):
        picture.draw(palette.DARK, "narrow").draw_without_rendering()


def test_no_limit_comes_last_on_an_axis() -> None:
    rows = [("kept", "a", "mtcp", bw, 0.5) for bw in (np.inf, 10.0, 100.0)]
    values = pd.DataFrame(rows, columns=["metric", "group", "mechanism", "bw", "value"])
    [axes] = plan_figures.against(values, "bw", METRICS["kept"]).axes
    places = dict(zip([label.get_text() for label in axes.get_xticklabels()], axes.get_xticks(), strict=True))
    assert places == {"10": 10, "100": 100, "unlimited": 200}


def test_nothing_but_failures_still_makes_a_page(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "x" / "y", {"dos": LINKS}, 1, ("mptcp",))
    assert "1 unsupported" in plan_report.write(plan).read_text()


def test_other_plans_are_refused(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "x" / "y", {"dos": LINKS}, 1, ("tcp",))
    (plan / "plan.json").write_text('{"schema_version": 0}')
    with pytest.raises(RunError, match="schema version 0; only 1"):
        Plan.load(plan)


def test_a_mechanism_has_its_colour_and_no_server_has_it() -> None:
    mechanisms = {palette.mechanism_colour(name) for name in comparing.MECHANISMS}
    assert len(mechanisms) == len(comparing.MECHANISMS)
    assert not mechanisms & set(palette.server_colours(["s1", "s2", "s3", "s4", "s5"]).values())
    assert plan_figures.mechanism_colour("quic") == palette.mechanism_colour("quic")


def test_how_figures_are_written() -> None:
    assert [METRICS["kept"].text(each) for each in (0.934, 0.0512, 1.0)] == ["93", "5.1", "100"]
    assert [METRICS["stall_ms"].text(each) for each in (3.14159, 31.4159, 314.159, 31415.9, None)] == [
        "3.14", "31.4", "314", "31\u202f416", "–",
    ]  # fmt: skip
    names = ("drain_s", "answer_ms_median", "connections_per_s", "moved", "cpu_s_client")
    assert [named(f"measured.{name}").heading for name in names] == [
        "drain [s]", "answer median [ms]", "connections [1/s]", "moved", "cpu client [s]",
    ]  # fmt: skip


def test_what_differs_between_two_sets_of_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenarios = {"dos": LINKS}
    one = write_plan(tmp_path / "x" / "one", scenarios, 4, ("mtcp", "tcp"), seed=1)
    same = write_plan(tmp_path / "x" / "same", scenarios, 4, ("mtcp",), seed=1)
    assert not any(change.beyond_noise for change in changes.compare(one, same))
    assert {change.mechanism for change in changes.compare(one, same)} == {"mtcp"}
    for samples in same.glob("runs/*/samples.parquet"):
        observed = pd.read_parquet(samples)
        slower = observed["metric"].isin(["detect_ms"])
        observations.write(
            samples.parent, observed.assign(value=observed["value"].where(~slower, observed["value"] + 900))
        )
    [change] = [change for change in changes.compare(one, same) if change.beyond_noise]
    assert (change.metric.name, change.word) == ("detect_ms", "worse")
    assert change.difference.value == pytest.approx(900)
    assert main(["compare", str(one), str(same)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| dos \| usual \| M-TCP \| detection \[ms\] \| .* \| worse \|", printed)
    assert f"first: {one}, 9 runs, code 0123456789\u0020\u0020\nsecond: {same}, 5 runs, code 0123456789\n" in printed
    assert "Only in the first: dos usual TCP." in printed and "Only in the second" not in printed
    assert "What became of the runs" not in printed
    for summary in sorted(same.glob("runs/*/summary.json"))[-2:]:
        summary.write_text('{"verdict": "failed", "reason": "reset"}')
    outcomes = "| dos | usual | M-TCP | 4 succeeded, 1 invalid | 2 succeeded, 2 failed, 1 invalid |"
    assert outcomes in changes.report(one, same)


def test_results_that_cannot_be_compared(tmp_path: Path) -> None:
    one, other = (write_plan(tmp_path / name, {name: LINKS}, 1, ("tcp",)) for name in ("dos", "wan"))
    with pytest.raises(RunError, match=r"dos \(dos: usual\) and .*wan \(wan: usual\) have nothing in common"):
        changes.report(one, other)
    with pytest.raises(RunError, match="are the same results"):
        changes.report(one, one)


def test_differences_of_what_does_not_pair_up() -> None:
    random = np.random.default_rng(1)
    found = statistics.difference(random.normal(10, 1, 200), random.normal(12, 1, 300))
    assert found.value is not None and found.low is not None and found.high is not None
    assert 1.6 < found.low < found.value < found.high < 2.4 and found.n == 200
    assert statistics.difference([1.0], [2.0, 3.0]).as_dict() == {"value": 1.5, "ci95": [None, None], "n": 1}
    assert statistics.difference([], [1.0]).n == 0
