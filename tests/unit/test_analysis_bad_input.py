"""What cannot be analysed gets one line that says why and exit status 2, by every command; or the verdict `invalid`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from analysis import judgement, observations
from analysis.__main__ import main
from analysis.synthetic import many_moves
from analysis.synthetic_plans import write_plan
from analysis.synthetic_trials import SyntheticTrial

pytestmark = pytest.mark.unit

Ruin = Callable[[bytes], bytes]
RUINS: dict[str, Ruin] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "noise": lambda content: b"\xff\xfe\x00" + content[3:20],
    "list": lambda content: b"[]",
    "old": lambda content: b'{"schema_version": 0}',
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """experiment/plan, run, trial: all as they should be, and judged."""
    directory = tmp_path_factory.mktemp("results")
    write_plan(directory / "experiment" / "plan", {"dos": {"rtt": [20.0]}}, 1, ("mtcp", "tcp"))
    many_moves(2).write(directory / "run")
    made = SyntheticTrial(fault=200, end=400)
    made.open(0)
    for i in range(1, 40):
        made.data(10.0 * i, "s1", 1000 * (i - 1), 1000)
        made.read(10.0 * i, 1000)
    assert judgement.judge(made.write_trial(directory / "trial", {"mechanism": "tcp"})).verdict == "succeeded"
    return directory


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    """Of the same, to be ruined."""
    shutil.copytree(results, tmp_path / "copy")
    return tmp_path / "copy"


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a command that fails."""
    assert main([str(each) for each in arguments]) == 2
    heard = capsys.readouterr()
    assert heard.err.startswith("analysis: ") and heard.err.count("\n") == 1 and not heard.out, heard
    return heard.err


COMMANDS = ("judge", "report", "tables", "compare", "bench", "round", "soak", "merge", "testbed")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", ["absent", "blank", "file", "other"])
def test_a_directory_without_results(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, what: str
) -> None:
    (tmp_path / "blank").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"schema_version": 1, "notes": "of another program"}')
    more = [results / "experiment"] if command == "compare" else []
    assert str(tmp_path) in said(capsys, command, tmp_path / what, *more)


@pytest.mark.parametrize("ruin", RUINS)
@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        ("judge trial", "trial/run.json"),
        ("report run", "run/run.json"),
        ("report experiment/plan", "experiment/plan/plan.json"),
        ("report experiment/plan", "run.json"),
        ("report experiment/plan", "summary.json"),
        ("report experiment/plan", "samples.parquet"),
        ("tables experiment/plan", "experiment/plan/plan.json"),
        ("tables experiment/plan", "summary.json"),
        ("compare experiment trial", "run.json"),
        ("compare experiment trial", "summary.json"),
        ("compare experiment trial", "samples.parquet"),
        ("bench bench", "bench/transfer/latest/summary.json"),
        ("soak soak", "soak/round/one/summary.json"),
        ("testbed run", "run/run.json"),
        ("testbed run", "run/samples.parquet"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(
    copy: Path, capsys: pytest.CaptureFixture[str], arguments: str, file: str, ruin: str
) -> None:
    """`file`: in the copy, else in a run of the plan."""
    run = next((copy / "experiment" / "plan" / "runs").glob("*1"))  # not the first, which was invalid
    path = copy / file if "/" in file else run / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(RUINS[ruin](path.read_bytes() if path.exists() else b'{"verdict": "succeeded"}'))
    command, *directories = arguments.split()
    assert str(path.parent) in said(capsys, command, *(copy / each for each in directories))


@pytest.mark.parametrize("command", ["judge trial", "report run"])
@pytest.mark.parametrize("ruin", ["empty", "half", "noise"])
def test_a_capture_that_cannot_be_read_makes_a_run_invalid(
    copy: Path, capsys: pytest.CaptureFixture[str], command: str, ruin: str
) -> None:
    word, directory = command.split()
    path = copy / directory / "client.pcap"
    path.write_bytes(RUINS[ruin](path.read_bytes()))
    assert main([word, str(copy / directory)]) == 0
    why = "the capture client.pcap ends inside a packet" if ruin == "half" else f"{path} is not a pcap file"
    assert f"invalid: {why}" in capsys.readouterr().out


def test_captures_that_cannot_be_merged(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "run" / "client.pcap"
    path.write_bytes(path.read_bytes()[:-5])
    assert main(["merge", str(copy / "run")]) == 0
    assert "the last one of client was cut short, and left out" in capsys.readouterr().out
    path.write_bytes(b"")
    assert f"{path} is not a pcap file" in said(capsys, "merge", copy / "run")


@pytest.mark.parametrize("ruin", ["empty", "half", "noise"])
def test_what_a_client_wrote_and_cannot_be_read(copy: Path, capsys: pytest.CaptureFixture[str], ruin: str) -> None:
    path = copy / "trial" / "client" / "deliveries.parquet"
    path.write_bytes(RUINS[ruin](path.read_bytes()))
    assert main(["judge", str(copy / "trial")]) == 0
    assert f"invalid: the trial left what makes no sense: {path} cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"more": 1.0}, {"metric": None}], ids=["unknown", "missing"])
def test_a_column_too_many_or_too_few(copy: Path, capsys: pytest.CaptureFixture[str], change: dict[str, float]) -> None:
    path = next((copy / "experiment" / "plan" / "runs").glob("*1")) / observations.NAME
    table = parquet.read_table(path)
    metadata = table.schema.metadata
    for name, value in change.items():
        kept = table.drop_columns([name]) if value is None else table
        table = kept if value is None else table.append_column(name, pa.array([value] * len(table)))
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    assert f"{path} is no table of observations: it has" in said(capsys, "report", copy / "experiment" / "plan")
    deliveries = copy / "trial" / "client" / "deliveries.parquet"
    pd.read_parquet(deliveries).drop(columns="bytes").to_parquet(deliveries)
    assert main(["judge", str(copy / "trial")]) == 0
    assert f"{deliveries} cannot be read" in capsys.readouterr().out


def test_a_line_of_events_that_is_none(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "run" / "events.jsonl"
    path.write_text("no event\n" + path.read_text())
    assert f"{path}:1 is not an event in JSON" in said(capsys, "report", copy / "run")


def test_a_run_in_progress(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As it begins: run.json says `invalid` until the end, events grow, captures are not written to the end."""
    record = {
        "schema_version": 1, "scenario": "dos", "mechanism": "tcp", "verdict": "invalid", "factors": {"rtt": 20.0},
        "reason": "the run did not end", "seed": 101, "repetition": 1, "policy": "throughput",
    }  # fmt: skip
    running = copy / "experiment" / "plan" / "runs" / "20260101T000009-ffff"
    running.mkdir()
    (running / "run.json").write_text(json.dumps(record | {"run_id": running.name}))
    (running / "events.jsonl").write_text('{"event": "mig')
    (running / "client.pcap").write_bytes((copy / "run" / "client.pcap").read_bytes()[:-5])
    assert main(["judge", str(running)]) == 0
    assert "invalid: the run did not end" in capsys.readouterr().out
    assert "lacks facts.hosts: the run did not end" in said(capsys, "report", running)
    for file in ("samples.parquet", "samples.csv", "summary.json"):
        (running / file).unlink()
    plan = json.loads((copy / "experiment" / "plan" / "plan.json").read_text())
    plan["trials"][-1] |= {"state": "pending", "attempts": []}
    (copy / "experiment" / "plan" / "plan.json").write_text(json.dumps(plan))
    assert main(["report", str(copy / "experiment" / "plan")]) == 0
    page = (copy / "experiment" / "plan" / "report.html").read_text()
    assert "1 trial is\n" in page and "the run did not end" in page
