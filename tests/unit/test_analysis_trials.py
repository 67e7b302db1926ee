"""Verdicts and metrics of trials whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import judgement, load, observations, trials
from analysis.__main__ import main
from analysis.capture import ACK, FIN, RST, SYN
from analysis.metrics import floor
from analysis.run import RunError
from analysis.synthetic import CLIENT_PORT
from analysis.synthetic_trials import SyntheticTrial

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials here are of milliseconds, and have something to compare with all the same."""
    monkeypatch.setattr(trials, "LEAST_BEFORE_NS", 50_000_000)


def download(made: SyntheticTrial, pieces: list[tuple[float, int, str]], offset: int = 0) -> SyntheticTrial:
    """Pieces (ms, bytes, server) arrive on the wire, and the application reads them in the same instant."""
    for ms, size, server in pieces:
        made.data(ms, server, offset, size)
        made.read(ms, size)
        offset += size
    return made


def a_move(**options: Any) -> SyntheticTrial:
    """1000 bytes every 10 ms, from 0 to 400 ms; fault at 200.4, s1 silent since 210, s2 from 271.25 on."""
    made = SyntheticTrial(fault=200.4, end=400, **options)
    made.open(0)
    download(made, [(10.0 * i, 1000, "s1") for i in range(1, 22)])
    made.moved(230.5, "s1", "s2", phases={"dump": 0.5})
    made.move(231, 251, "s2")
    return download(made, [(271.25 + 10 * i, 1000, "s2") for i in range(13)], 21_000)


def metrics(path: Path) -> dict[str, float]:
    """Those of the run as a whole, by name, after judging it."""
    observed = judgement.judge(path).observed
    return observed[observed["time"].isna()].set_index("metric")["value"].to_dict()


def verdict(path: Path) -> tuple[str, str]:
    found = judgement.judge(path)
    return found.verdict, found.reason


def test_every_figure_of_a_move_is_exact(tmp_path: Path) -> None:
    found = judgement.judge(a_move().write_trial(tmp_path))
    assert found.verdict == "succeeded", found.reason
    figures = metrics(tmp_path)
    # 11 pieces at 100.2 … 200.4: 110, 120 … 200 are 10.
    assert figures["goodput_before_mbps"] == pytest.approx(10_000 * 8 / 100.2e-3 / 1e6)
    # 210, and 13 of s2's: 271.25 … 391.25.
    assert figures["goodput_after_mbps"] == pytest.approx(14_000 * 8 / 199.6e-3 / 1e6)
    assert figures["kept"] == figures["wire_kept"] == pytest.approx((14 / 199.6) / (10 / 100.2))
    assert figures["dip_mb"] == pytest.approx((10 / 100.2 * 199.6 - 14) / 1e3)
    assert figures["silence_ms"] == figures["wire_silence_ms"] == figures["stall_ms"] == pytest.approx(61.25)
    assert figures["silence_before_ms"] == pytest.approx(10)
    assert figures["detect_ms"] == pytest.approx(30.1)
    assert figures["moves"] == figures["decisions"] == figures["connections"] == 1
    assert figures["false_moves"] == figures["duplicate_bytes"] == figures["retransmitted_bytes"] == 0
    assert figures["bytes"] == figures["wire_bytes"] == 34_000
    assert figures["floor_ms"] == 20
    assert figures["floor_ratio"] == pytest.approx(61.25 / 20)
    timed = found.observed.dropna(subset="time").set_index("metric")
    assert timed.loc["wire_stall_ms", ["value", "server"]].tolist() == [pytest.approx(61.25), "s2"]
    assert timed.loc["move_stall_ms", "value"] == pytest.approx(61.25)
    assert timed.loc["switch_ms", "value"] == pytest.approx(271.25 - 230.5)
    assert timed.loc["first_byte_ms", "value"] == pytest.approx(271.25 - 230.5, abs=1e-3)
    assert timed.loc["migration_ms", ["value", "time"]].tolist() == pytest.approx([40.25, 0.0301], abs=1e-6)
    assert timed.loc["phase.dump_ms", "value"] == 0.5
    assert timed.loc["commit_ms", "value"] == pytest.approx(1)


def test_of_several_moves_the_median_and_the_longest(tmp_path: Path) -> None:
    """Stalls of 61.25, 40.5 and 20.1 ms; bytes and times that wrap around in 32 bits; one piece comes twice."""
    made = a_move(first=2**32 - 30_000)
    for decided, syn, come, source, to, offset in (
        (393, 393.5, 431.75, "s2", "s1", 34_000), (433, 434, 451.85, "s1", "s2", 35_000)
    ):  # fmt: skip
        made.moved(decided, source, to)
        made.move(syn, syn + 10, to)
        download(made, [(come, 1000, to)], offset)
    made.data(460, "s2", 35_200, 700)
    made.end = 470
    figures = metrics(made.write_trial(tmp_path))
    assert figures["stall_ms"] == pytest.approx(40.5)  # 391.25 -> 431.75
    assert figures["stall_max_ms"] == pytest.approx(61.25)
    assert (figures["moves"], figures["bytes"]) == (3, 36_000)
    assert (figures["duplicate_bytes"], figures["retransmitted_bytes"], figures["wire_bytes"]) == (700, 700, 36_700)


def test_a_move_that_did_not_commit_has_no_time_of_its_commit(tmp_path: Path) -> None:
    made = SyntheticTrial(fault=200.4, end=400)
    made.open(0)
    download(made, [(10.0 * i, 1000, "s1") for i in range(1, 40)])
    made.moved(230.5, "s1", "s2", committed_ns=None, outcome="kept", reason="no answer")
    found = judgement.judge(made.write_trial(tmp_path))
    assert found.verdict == "succeeded", found.reason
    assert "commit_ms" not in set(found.observed["metric"])
    assert metrics(tmp_path)["moves"] == 0


def test_the_series_begins_and_ends_with_the_trial_and_turns_at_the_fault(tmp_path: Path) -> None:
    observed = judgement.judge(a_move().write_trial(tmp_path)).observed
    series = observed[observed["metric"] == "goodput_mbps"]
    assert series["time"].tolist() == pytest.approx([-0.2, -0.1, 0.0])
    assert (series["value"] * 1e6 * 0.1 / 8).tolist() == pytest.approx([10_000, 10_000, 4_000])


def test_what_the_application_read_and_what_the_wire_shows_agree(tmp_path: Path) -> None:
    """Of plain TCP, with a loss: what arrives after a hole is read when that is filled."""
    made = SyntheticTrial(fault=100, end=200)
    made.open(0)
    download(made, [(10.0 * i, 1000, "s1") for i in range(1, 12)])
    made.segment(119, "s1", "client", made.first + 11_000, payload=1000, seen_by=("s1",))
    made.data(120, "s1", 12_000, 1000)
    made.data(130, "s1", 13_000, 1000)
    made.data(155.5, "s1", 11_000, 1000)
    made.read(155.5, 3000)
    made.data(156, "s1", 13_000, 1000)
    record = {"mechanism": "tcp"}
    assert verdict(made.write_trial(tmp_path, record))[0] == "succeeded"
    figures = metrics(tmp_path)
    assert figures["silence_ms"] == figures["wire_silence_ms"] == pytest.approx(45.5)  # 110 -> 155.5; 44.5 to the end
    assert figures["kept"] == figures["wire_kept"] == pytest.approx((5 / 100) / (5 / 50))  # 100, 110, 155.5; 50 … 90
    assert figures["duplicate_bytes"] == 1000
    assert figures["retransmitted_bytes"] == 2000
    assert "detect_ms" not in figures and "stall_ms" not in figures


def test_a_stream_that_ends_in_the_middle_is_silent_to_the_end(tmp_path: Path) -> None:
    made = SyntheticTrial(fault=100, end=300)
    made.open(0)
    download(made, [(10.0 * i, 1000, "s1") for i in range(1, 13)])
    figures = metrics(made.write_trial(tmp_path, {"mechanism": "tcp"}))
    assert figures["silence_ms"] == figures["wire_silence_ms"] == pytest.approx(180)


def test_without_a_time_before_nothing_is_compared(tmp_path: Path) -> None:
    made = SyntheticTrial(fault=40, end=100)
    made.open(0)
    download(made, [(10.0 * i, 1000, "s1") for i in range(1, 10)])
    figures = metrics(made.write_trial(tmp_path, {"mechanism": "tcp"}))
    assert figures["goodput_after_mbps"] == pytest.approx(6_000 * 8 / 0.06 / 1e6)
    assert not {"kept", "wire_kept", "goodput_before_mbps", "silence_before_ms", "dip_mb"} & set(figures)


def test_who_reconnects_decides_by_itself(tmp_path: Path) -> None:
    made = SyntheticTrial(fault=100, end=300)
    made.open(0)
    download(made, [(10.0 * i, 1000, "s1") for i in range(1, 12)])
    made.decide(50, "s1", "s1")
    made.decide(150.25, "s1", "s2")
    made.open(160, "s2", CLIENT_PORT + 1)
    made.read(200.5, 5000, "s2")
    figures = metrics(made.write_trial(tmp_path, {"mechanism": "reconnect"}, bytes=11_000))
    assert (figures["decisions"], figures["moves"], figures["false_moves"]) == (2, 2, 1)
    assert figures["detect_ms"] == pytest.approx(50.25)
    assert figures["stall_ms"] == pytest.approx(90.5)  # 110 -> 200.5
    assert figures["connections"] == 2
    assert "wire_stall_ms" not in figures


def test_requests(tmp_path: Path) -> None:
    made = SyntheticTrial(fault=100, end=300)
    made.open(0)
    for asked, first, done in ((10, 12, 15), (60, 61, 65), (90, 91, 95), (110, 112, 120), (140, 190, 210.5)):
        made.ask(asked, first, done)
        made.read(first, 500)
        made.read(done, 500)
    made.ask(230, None, None)
    observed = judgement.judge(made.write_trial(tmp_path, {"mechanism": "quic"})).observed
    figures = metrics(tmp_path)
    assert figures["request_before_p50_ms"] == pytest.approx(5)
    assert figures["request_p50_ms"] == pytest.approx(70)  # 10, 70.5, 70 (at least)
    assert figures["request_p95_ms"] == pytest.approx(70.45)
    assert figures["request_p99_ms"] == pytest.approx(70.49)
    assert figures["request_rate_before"] == pytest.approx(2 / 0.05)
    assert figures["request_rate"] == pytest.approx(2 / 0.2)
    assert figures["request_kept"] == pytest.approx(0.25)
    assert figures["requests_unanswered"] == 1
    assert figures["silence_ms"] == pytest.approx(70)  # not 210.5 -> 230: nobody waited
    timed = observed[observed["metric"] == "request_ms"]
    assert timed["time"].tolist() == pytest.approx([-0.09, -0.04, -0.01, 0.01, 0.04, 0.13])
    first = observed[observed["metric"] == "request_first_byte_ms"]
    assert first["value"].tolist() == pytest.approx([2, 1, 1, 2, 50])


def test_rebuffering(tmp_path: Path) -> None:
    made = SyntheticTrial(fault=100, end=1000)
    made.open(0)
    made.ask(0, 5, 20)
    made.segment_of_media(20, 20)
    made.segment_of_media(120, 60)
    made.segment_of_media(220, 250.5)
    made.segment_of_media(350.5, 350.5)
    made.segment_of_media(450.5, None)
    made.read(20, 1000)
    observed = judgement.judge(made.write_trial(tmp_path, {"mechanism": "quic"})).observed
    buffer = observed[observed["metric"] == "buffer_s"]
    assert buffer["value"].tolist() == pytest.approx([0, 0.06, 0, 0])
    assert buffer["time"].tolist() == pytest.approx([-0.08, -0.04, 0.1505, 0.2505])
    figures = metrics(tmp_path)
    assert figures["rebuffering_s"] == pytest.approx(0.0305 + 0.5495)
    assert figures["rebufferings"] == 2
    assert figures["rebuffering_share"] == pytest.approx(0.58 / 0.9)
    assert figures["startup_ms"] == pytest.approx(20)
    assert "kept" not in figures  # the player's buffer was filled before


def test_rebuffering_of_a_player_that_does_not_say_what_it_reads(tmp_path: Path) -> None:
    made = SyntheticTrial(fault=100, end=1000)
    made.open(0)
    made.segment_of_media(500, 400)
    made.segment_of_media(750, 780.5)
    made.segment_of_media(900.5, None)
    path = made.write_trial(tmp_path, {"mechanism": "tcp"})
    (path / "client" / "deliveries.parquet").unlink()
    figures = metrics(path)
    assert figures["rebuffering_s"] == pytest.approx(0.0305 + 0.0995)
    assert figures["rebufferings"] == 2
    assert "goodput_after_mbps" not in figures


def test_the_floor() -> None:
    assert floor.floor_ms(20, 5, 0, 0) == 25
    assert floor.floor_ms(20, 5, 1_000_000, 100) == pytest.approx(105)  # 80 ms for a megabyte
    assert floor.of_trial({"rtt": 20, "control_rtt": 10, "control_bw": 100}, {"shipped_bytes": 125_000}) == 40
    assert floor.of_trial({}, {}) is None


@pytest.mark.parametrize(
    ("change", "word", "reason"),
    [
        ({"sha256": "cd" * 32}, "failed", "client received other bytes than were sent"),
        ({"exit": 1, "error": "reset"}, "failed", "client: reset"),
        (
            {"bytes": 40_000},
            "invalid",
            "the client's capture lacks bytes: 34000 in order, the application read 40000",
        ),
    ],
)
def test_what_the_client_says_counts(tmp_path: Path, change: dict[str, Any], word: str, reason: str) -> None:
    assert verdict(a_move().write_trial(tmp_path, **change)) == (word, reason)


def test_resets_count_until_the_clients_own_end(tmp_path: Path) -> None:
    made = a_move()
    made.segment(399.5, "client", "s2", 77, RST)
    made.segment(405, "client", "s2", 77, RST)
    assert verdict(made.write_trial(tmp_path / "at-the-end"))[0] == "succeeded"
    made = a_move()
    made.segment(300, "client", "s2", 77, FIN | ACK)
    made.segment(310, "s2", "client", 77, RST)
    assert verdict(made.write_trial(tmp_path / "closed"))[0] == "succeeded"
    made = a_move()
    made.segment(300, "s2", "client", 77, RST)
    reset = "1 RST on the connection before the client's end"
    assert verdict(made.write_trial(tmp_path / "before")) == ("failed", reset)


def test_an_mtcp_connection_has_one_handshake(tmp_path: Path) -> None:
    made = a_move()
    made.segment(300, "client", "s2", 78, SYN)
    found = verdict(made.write_trial(tmp_path))
    assert found == ("failed", f"2 handshakes on the client's port {CLIENT_PORT}, not one")


def test_a_move_that_is_only_reported_fails(tmp_path: Path) -> None:
    made = SyntheticTrial(fault=100, end=5000)
    made.open(0)
    download(made, [(10.0 * i, 1000, "s1") for i in range(1, 30)])
    made.moved(150, "s1", "s2")
    found = verdict(made.write_trial(tmp_path / "early"))
    assert found == ("failed", "a move to s2 is reported, but no ACCEPT of it reached the client")
    made.move(151, 190, "s2")
    found = verdict(made.write_trial(tmp_path / "silent"))
    assert found == ("failed", "a move is reported, but no payload from s2 reached the client")
    made.moved(600, "s2", "s1")
    made.move(601, 602, "s1")
    made.data(610, "s1", 29_000, 1000)
    assert verdict(made.write_trial(tmp_path / "left-soon"))[0] == "succeeded"
    made.moved(4800, "s1", "s2")
    assert verdict(made.write_trial(tmp_path / "late"))[0] == "succeeded"


def test_what_a_new_server_sent_the_network_may_have_lost(tmp_path: Path) -> None:
    """All of its first window: and its kernel sends nothing again for a second."""
    made = SyntheticTrial(fault=100, end=5000)
    made.open(0)
    download(made, [(10.0 * i, 1000, "s1") for i in range(1, 10)])
    made.moved(110, "s1", "s2")
    made.move(111, 112, "s2")
    path = made.write_trial(tmp_path / "silent")
    assert verdict(path) == ("failed", "a move is reported, but no payload from s2 reached the client")
    made.segment(115, "s2", "client", made.first + 9000, ACK, 1000, seen_by=("s2",))
    made.moved(1000, "s2", "s1")
    made.move(1001, 1002, "s1")
    made.data(1003, "s1", 9000, 1000)
    assert verdict(made.write_trial(tmp_path / "lost"))[0] == "succeeded"


@pytest.mark.parametrize(
    ("record", "word", "reason"),
    [
        ({"verdict": "unsupported", "reason": "no second path", "facts": {}}, "unsupported", "no second path"),
        ({"reason": "StageError: s1 did not start", "facts": {}}, "invalid", "StageError: s1 did not start"),
        ({"fidelity": {"exceeded": ["busy"], "void": ""}}, "invalid", "busy"),
        ({"fidelity": {"exceeded": [], "void": "the delay line died"}}, "invalid", "the delay line died"),
    ],
)
def test_the_harness_comes_first(tmp_path: Path, record: dict[str, Any], word: str, reason: str) -> None:
    path = a_move().write_trial(tmp_path, record)
    assert verdict(path) == (word, reason)
    assert load(path)["verdict"].unique().tolist() == [word]


def test_captures_that_lost_packets_are_no_evidence(tmp_path: Path) -> None:
    path = a_move().write_trial(tmp_path)
    record = json.loads((path / "run.json").read_text())
    record["facts"]["capture_drops"]["s1"] = 3
    (path / "run.json").write_text(json.dumps(record))
    assert verdict(path) == ("invalid", "the capture at s1 dropped 3 packets")


def test_a_client_that_checks_every_byte_itself(tmp_path: Path) -> None:
    """As in scenarios without moments: the wire shows the moves, and there are no deliveries."""
    made = a_move()
    path = made.write_trial(tmp_path, every_byte_right=True, sha256="", bytes=34_000)
    (path / "client" / "deliveries.parquet").unlink()
    record = json.loads((path / "run.json").read_text())
    del record["facts"]["moments_ns"]
    record["facts"] |= {"measured": {"nested": {"x": 1.5}, "text": "-"}, "floor": {"rtt_s1_s2_ms": 5}}
    (path / "run.json").write_text(json.dumps(record))
    found = judgement.judge(path)
    assert found.verdict == "succeeded", found.reason
    figures = found.observed.set_index("metric")["value"]
    assert figures["stall_ms"] == pytest.approx(61.25)
    assert (figures["floor_ms"], figures["moves"], figures["measured.nested.x"]) == (25, 1, 1.5)


def test_loading(tmp_path: Path) -> None:
    a_move().write_trial(tmp_path / "runs" / "one", {"run_id": "one", "factors": {"rtt": 40.0, "bw": 10}})
    a_move().write_trial(tmp_path / "runs" / "two", {"run_id": "two", "reason": "broken", "facts": {}})
    (tmp_path / "runs" / "latest").symlink_to("one")
    with pytest.raises(RunError, match=r"one has no samples.parquet: python -m analysis judge"):
        observations.write(tmp_path / "runs" / "two", observations.frame([]))
        (tmp_path / "runs" / "one" / "summary.json").write_text('{"verdict": "succeeded"}')
        load(tmp_path)
    assert main(["judge", str(tmp_path / "runs" / "one"), str(tmp_path / "runs" / "two")]) == 0
    loaded = load(tmp_path)
    assert list(loaded.columns) == list(observations.COLUMNS)
    assert dict(loaded.groupby("run_id")["verdict"].first()) == {"one": "succeeded", "two": "invalid"}
    kept = load(tmp_path, metrics=["kept"])
    assert kept[["run_id", "metric"]].to_numpy().tolist() == [["one", "kept"], ["two", ""]]
    assert observations.spread(kept)[["rtt", "bw"]].iloc[0].tolist() == [40.0, 10]
    assert observations.runs(loaded)["repetition"].tolist() == [1, 1]


def test_other_versions_and_forms_are_refused(tmp_path: Path) -> None:
    path = a_move().write_trial(tmp_path)
    judgement.judge(path)
    old = pd.DataFrame({"run_id": ["x"], "metric": ["goodput_mbps"], "value": [1.0]})
    old.to_parquet(path / "samples.parquet")
    with pytest.raises(RunError, match="version 1 of observations, and only 2 is read: judge the run again"):
        load(path)
    (path / "samples.parquet").write_bytes(b"no parquet")
    with pytest.raises(RunError, match="cannot be read"):
        load(path)
    with pytest.raises(RunError, match="no runs in"):
        load(path / "client")


def test_observations_without_a_value_are_none() -> None:
    made = observations.frame([observations.Observation("a", np.nan, "ms"), observations.Observation("b", 1, "ms")])
    assert made["metric"].tolist() == ["b"]
