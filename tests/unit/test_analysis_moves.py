"""Single moves: packets with roles, what a move was made of, and the figures of it."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from analysis import judgement, losses, move_figures, one_move, packets, palette, plan_pictures, report
from analysis.capture import ACCEPT, ACK, FIN, MIGRATE, RST, SYN
from analysis.one_move import Move
from analysis.plan_pictures import View
from analysis.plan_report import write as write_plan_report
from analysis.plans import Plan
from analysis.run import CLIENT, RunError
from analysis.segments import CONTROL, kinds
from analysis.synthetic import CLIENT_PORT, HOSTS, Download, mtcp_option
from analysis.synthetic_trials import SyntheticTrial, monotonic_ns
from analysis.trials import Trial

pytestmark = pytest.mark.unit

ONE_WAY = 2.0
"""Ms between client and servers."""


def across(run: Download, ms: float, src: str, dst: str, seq: int, flags: int = ACK, payload: int = 0,
           options: bytes = b"", lost: bool = False, ack: int = 0) -> None:  # fmt: skip
    """A segment that takes its time."""
    run.segment(ms, src, dst, seq, flags, payload, options, seen_by=(src,), ack=ack)
    if not lost:
        run.segment(ms + ONE_WAY, src, dst, seq, flags, payload, options, seen_by=(dst,), ack=ack)


def note(run: Download, ms: float, host: str, event: str, attempt: int = 1) -> None:
    """An agent notes an event."""
    run.events.append({
        "event": event, "monotonic_ns": monotonic_ns(ms), "connection": [HOSTS["client"], CLIENT_PORT],
        "attempt": attempt, "host": host,
    })  # fmt: skip


def one(run: Download, shift: float = 0.0, slow: float = 0.0) -> None:
    """S1 sends 1000 bytes a ms from 10 ms on; at 20 ms the client decides to go to S2; its first MIGRATE is lost.

    S2's first new byte comes at 35 ms, by `slow` later; by as much everything is shifted.
    """

    def at(ms: float) -> float:
        return ms + shift

    def control(ms: float, src: str, dst: str, subtype: int, flags: int = ACK, lost: bool = False) -> None:
        across(run, at(ms), src, dst, 5, flags, 0, mtcp_option(subtype), lost)

    run.handshake(at(0))
    for i in range(12):  # sent at 8 … 19 ms, at the client from 10 to 21 ms: the last two after the decision
        across(run, at(8.5 + i), "s1", "client", run.first + 1000 * i, payload=1000)
        if i < 10:
            run.acknowledge(at(10.7 + i), "s1", 1000 * (i + 1))
    note(run, at(20), "client", "migrate_sent")
    control(20.2, "client", "s2", MIGRATE, SYN, lost=True)
    control(23.2, "client", "s2", MIGRATE, SYN)
    for ms, host, event in ((26, "s2", "state_request_sent"), (27, "s1", "request_received"), (27.5, "s1", "fenced"),
                            (28, "s1", "state_reply_sent"), (29, "s2", "reply_received"), (30, "s2", "restored"),
                            (40, "s2", "done_sent"), (41, "s1", "left")):  # fmt: skip
        note(run, at(ms), host, event)
    control(31, "s2", "client", ACCEPT, SYN | ACK)
    across(run, at(33 + slow), "s2", "client", run.first + 10_000, payload=3000)
    run.acknowledge(at(35.5 + slow), "s2", 13_000)
    control(36 + slow, "client", "s2", 4)
    across(run, at(37 + slow), "s2", "client", run.first + 11_000, payload=1000)
    across(run, at(38 + slow), "s2", "client", run.first + 13_000, payload=1000)
    run.report(at(20), "s1", "s2", connection=f"{HOSTS['client']}:{CLIENT_PORT}", attempt=1, shipped=12_345,
               committed_ns=monotonic_ns(at(33)))  # fmt: skip


@pytest.fixture
def move(tmp_path: Path) -> Move:
    """The one of a trial that has one."""
    return trial(tmp_path / "run")


def trial(path: Path, **what: Any) -> Move:
    """Of a trial of M-TCP."""
    run = SyntheticTrial()
    one(run, **what)
    run.connections.append({"server": "s1", "local_port": CLIENT_PORT, "opened_ns": monotonic_ns(0)})
    found = one_move.of_trial(Trial.load(run.write_trial(path)))
    assert found is not None
    return found


def test_packets_have_roles_and_names(tmp_path: Path) -> None:
    run = Download(first=2**32 - 1500)  # wraps within the second segment
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    run.segment(2, "s1", "client", run.first + 1000, ACK, 1000, seen_by=("s1",))  # lost
    run.data(3, "s2", 1000, 1000)
    run.acknowledge(4, "s2", 2000)
    run.control(5, "client", "s2", MIGRATE, SYN)
    found = packets(run.write(tmp_path))
    at_client = found[found["host"] == CLIENT]
    assert at_client[["ms", "src", "dst", "direction", "kind"]].to_numpy().tolist() == [
        [0.0, "client", "s1", "up", "SYN"],
        [0.0, "s1", "client", "down", "SYN-ACK"],
        [1.0, "s1", "client", "down", "data"],
        [3.0, "s2", "client", "down", "data"],
        [4.0, "client", "s2", "up", "acknowledgement"],
        [5.0, "client", "s2", "up", "MIGRATE"],
    ]
    assert at_client["offset"].tolist()[:5] == [-1, -1, 0, 1000, 0] and pd.isna(at_client["offset"].iloc[-1])
    assert at_client["acked"].iloc[4] == 2000
    of_s1 = found[(found["host"] == "s1") & (found["kind"] == "data")]
    assert of_s1["offset"].tolist() == [0, 1000] and of_s1["payload"].tolist() == [1000, 1000]
    assert set(found["port"]) == {CLIENT_PORT}


def test_packets_of_a_trial_count_from_the_fault(tmp_path: Path) -> None:
    run = SyntheticTrial(fault=100)
    run.open(0)
    run.data(130, "s1", 0, 10)
    assert packets(run.write_trial(tmp_path))["ms"].tolist() == pytest.approx([-100] * 4 + [30] * 2, abs=1e-5)


def test_packets_without_captures(tmp_path: Path) -> None:
    Download().write(tmp_path)
    assert packets(tmp_path).empty
    for capture in tmp_path.glob("*.pcap"):
        capture.unlink()
    assert packets(tmp_path).empty


@pytest.mark.parametrize(
    ("flags", "control", "payload", "kind"),
    [
        (SYN, 1, 0, "SYN"),
        (SYN | ACK, 1, 0, "SYN-ACK"),
        (SYN | ACK, 3, 0, "ACCEPT"),
        (ACK, 13, 0, "REFUSAL"),
        (ACK | FIN, 0, 10, "data"),
        (ACK | FIN, 0, 0, "FIN"),
        (ACK, 0, 0, "acknowledgement"),
        (ACK | RST, 0, 0, "RST"),
    ],
)
def test_kinds(flags: int, control: int, payload: int, kind: str) -> None:
    rows = pd.DataFrame({"flags": [flags], "control": [control], "payload": [payload]})
    assert list(kinds(rows)) == [kind]
    rows = rows.assign(src=1, dst=2, sport=80, dport=9)
    assert losses.described(rows, {}, 80)["kind"].tolist() == ["control connection"]
    assert losses.described(rows, {}, 81)["kind"].tolist() == [kind]


def test_subtypes_are_those_of_the_protocol() -> None:
    from mtcp.wire.option_body import Subtype

    assert {CONTROL[number]: number for number in range(1, 14)} == {each.name: each.value for each in Subtype}


def test_segments_that_the_client_refuses_and_that_come_again(move: Move) -> None:
    found = move.segments
    assert (move.old, move.new, move.last_ms) == ("s1", "s2", pytest.approx(-0.5))
    assert found.loc[found["refused"], ["server", "offset"]].to_numpy().tolist() == [["s1", 10_000], ["s1", 11_000]]
    assert found.loc[found["again"], ["server", "offset"]].to_numpy().tolist() == [["s2", 11_000]]
    assert found["ms"].is_monotonic_increasing and found["ms"].iloc[-1] == pytest.approx(20.0)
    assert move.acknowledgements["offset"].iloc[-1] == 13_000


def test_messages_of_a_move(move: Move) -> None:
    told = [(each.label, each.src, each.dst, each.evidence, each.refused) for each in move.messages]
    assert told == [
        ("last data", "s1", "client", "data", False),
        ("first of 2 refused", "s1", "client", "data", True),
        ("MIGRATE", "client", "s2", "control", False),
        ("MIGRATE", "client", "s2", "control", False),
        ("STATE_REQUEST", "s2", "s1", "agents", False),
        ("STATE_REPLY, 12\u202f345 B", "s1", "s2", "agents", False),
        ("ACCEPT", "s2", "client", "control", False),
        ("first new data", "s2", "client", "data", False),
        ("ACK3", "client", "s2", "control", False),
        ("DONE", "s2", "s1", "agents", False),
    ]
    times = [(each.sent_ms, each.received_ms) for each in move.messages]
    assert times[0] == (pytest.approx(-2.5), pytest.approx(-0.5))
    assert times[4:] == [(pytest.approx(sent), pytest.approx(got)) for sent, got in (
        (6, 7), (8, 9), (11, 13), (13, 15), (16, 18), (20, 21))]  # fmt: skip
    assert {note.label: note.ms for note in move.notes} == {
        "decision": 0.0, "commit": pytest.approx(13.0), "fenced": pytest.approx(7.5), "restored": pytest.approx(10.0),
    }  # fmt: skip


def test_a_message_that_is_lost_does_not_arrive(move: Move) -> None:
    first, second = (each for each in move.messages if each.label == "MIGRATE")
    assert (first.sent_ms, first.received_ms) == (pytest.approx(0.2), None)
    assert (second.sent_ms, second.received_ms) == (pytest.approx(3.2), pytest.approx(5.2))


def test_what_is_repeated_again_and_again_is_shown_twice(tmp_path: Path) -> None:
    run = SyntheticTrial()
    one(run)
    for i in range(5):
        across(run, 24 + i / 10, "client", "s2", 5, SYN, 0, mtcp_option(MIGRATE))
    found = one_move.of_trial(Trial.load(run.write_trial(tmp_path)))
    assert found is not None
    assert [each.label for each in found.messages if "MIGRATE" in each.label] == ["MIGRATE", "MIGRATE, and 5 more"]


def test_the_median_move_is_shown(tmp_path: Path) -> None:
    run = Download()
    run.handshake(0)
    owner = "s1"
    for number, stall in enumerate((3, 9, 5)):
        other = "s2" if owner == "s1" else "s1"
        begun = 100 * (number + 1)
        run.data(begun - 1, owner, 2000 * number, 1000)
        run.report(begun, owner, other, attempt=number + 1)
        run.move(begun + 0.1, begun + 0.5, other)
        run.data(begun - 1 + stall, other, 2000 * number + 1000, 1000)
        owner = other
    found = report.examine(run.write(tmp_path))
    typical = report._typical(found)
    assert typical is not None and typical.report["attempt"] == 3
    assert typical.stall_ms == pytest.approx(5)
    assert typical.window[0] > -100  # nothing of the move before


def test_no_picture_without_captures(tmp_path: Path) -> None:
    run = SyntheticTrial()
    one(run)
    directory = run.write_trial(tmp_path)
    record = json.loads((directory / "run.json").read_text())
    record["facts"]["captured"] = "tcp[tcpflags] & tcp-syn != 0"
    (directory / "run.json").write_text(json.dumps(record))
    assert one_move.of_trial(Trial.load(directory)) is None
    directory = run.write_trial(tmp_path)
    assert one_move.of_trial(Trial.load(directory)) is not None
    (directory / "s1.pcap").unlink()
    assert one_move.of_trial(Trial.load(directory)) is None


def test_equal_segments_are_told_apart_by_their_times() -> None:
    assert one_move._arrivals([0, 1], [10, 11]) == [10, 11]
    assert one_move._arrivals([0, 200], [210]) == [None, 210]
    assert one_move._arrivals([0, 200], [10]) == [10, None]
    assert one_move._arrivals([0, 200, 400], [10, 410]) == [10, None, 410]
    assert one_move._arrivals([5], []) == [None]


@pytest.mark.parametrize("shape", palette.SHAPES)
@pytest.mark.parametrize("draw", [move_figures.ladder, move_figures.sequence])
def test_no_label_covers_another(move: Move, draw: Any, shape: palette.Shape) -> None:
    found = boxes(draw(move, shape=shape))
    assert len(found) >= 4
    for (one_text, one_box), (other_text, other_box) in combinations(found, 2):
        assert not one_box.overlaps(other_box), (one_text, other_text)


def boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Where the texts of the figure's axes are, but those of the ticks."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    [axes] = figure.axes
    texts = [each for each in axes.texts if isinstance(each, Text | Annotation) and each.get_text().strip()]
    return [(each.get_text(), Text.get_window_extent(each, canvas.get_renderer())) for each in texts]


def test_labels_are_on_the_figure(move: Move) -> None:
    for shape in palette.SHAPES:
        figure = move_figures.ladder(move, shape=shape)
        whole = figure.bbox
        for text, box in boxes(figure):
            assert box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y1 <= whole.y1, text


def test_figures_are_written_for_screen_and_print(move: Move, tmp_path: Path) -> None:
    palette.save(move_figures.ladder(move, title="One move"), tmp_path / "x.y")
    assert sorted(file.name for file in tmp_path.glob("x.y.*")) == ["x.y.pdf", "x.y.png", "x.y.svg"]
    printed = (tmp_path / "x.y.pdf").read_bytes()
    assert b"/FontFile2" in printed and b"/Type3" not in printed
    palette.save(move_figures.ladder(move, title="One move"), tmp_path / "z")
    assert (tmp_path / "z.pdf").read_bytes() == printed


def test_the_report_of_a_run_shows_a_move(tmp_path: Path) -> None:
    run = Download()
    one(run)
    page = report.write(run.write(tmp_path)).path.read_text()
    assert "S1 → S2, attempt 1 of the connection" in page
    for name in ("goodput", "phases", "sequence", "ladder"):
        assert all((tmp_path / f"{name}.{kind}").stat().st_size > 1000 for kind in palette.KINDS)
    (tmp_path / "s2.pcap").unlink()
    assert "One move" not in report.write(tmp_path).path.read_text()


def test_the_report_of_a_plan_shows_the_median_trial(tmp_path: Path) -> None:
    for name, slow in (("slow", 9.0), ("quick", 0.0), ("middle", 4.0)):
        run = SyntheticTrial(fault=5)
        one(run, slow=slow)
        run.read(10, 1000, "s1")
        run.read(35 + slow, 1000, "s2")
        run.connections.append({"server": "s1", "local_port": CLIENT_PORT, "opened_ns": monotonic_ns(0)})
        directory = run.write_trial(tmp_path / "runs" / name, {"run_id": name})
        assert judgement.judge(directory).verdict == "succeeded"
    view = View(Plan.load(tmp_path))
    with pytest.raises(RunError, match="absent is not a directory"):
        view.plan.run("absent")
    pictures = {each.name: each for each in plan_pictures.of_scenario(view, "congestion")}
    assert "Run middle: of 3 of M-TCP" in pictures["congestion-ladder"].caption
    write_plan_report(tmp_path)
    assert all((tmp_path / "figures" / f"congestion-sequence.{kind}").exists() for kind in palette.KINDS)
    (tmp_path / "runs" / "middle" / "client.pcap").unlink()
    assert not [each for each in plan_pictures.of_scenario(view, "congestion") if "ladder" in each.name]
