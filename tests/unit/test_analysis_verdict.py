"""Metrics and verdicts of runs whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import migrations, statistics
from analysis.capture import ABORT, ACCEPT, ACK, MIGRATE, RST, SYN
from analysis.run import Run, RunError
from analysis.synthetic import CLIENT_PORT, Download
from analysis.verdict import examine, judge

pytestmark = pytest.mark.unit

WRAP = 2**32 - 5000
"""A first sequence number after which the numbers soon wrap."""


def two_moves(first: int = WRAP) -> Download:
    """10 000 bytes, S1 -> S2 -> S1, with 500 bytes of S1's that the client refuses during the first move."""
    run = Download(first)
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    run.data(2, "s1", 1000, 1000)
    run.data(4, "s1", 2000, 1000)
    run.move(5.5, 6.0, "s2")
    run.data(5.6, "s1", 3000, 500)  # after the MIGRATE SYN, beyond the handover: refused
    run.data(7.25, "s2", 3000, 1000)
    run.data(8, "s2", 4000, 2000)
    run.data(9, "s2", 4000, 2000)  # sent again
    run.move(10, 10.4, "s1")
    run.data(11, "s1", 6000, 1000)
    run.data(13, "s1", 9000, 1000)  # a hole before it
    run.data(14.5, "s1", 7000, 2000)  # fills it
    run.report(5.25, "s1", "s2", phases={"decide": 0.25, "dump": 0.5})
    run.report(9.5, "s2", "s1", phases={"decide": 0.5, "dump": 0.4})
    return run


def traced(path: Path) -> tuple[Run, migrations.Trace]:
    examination = examine(path)
    assert examination.trace is not None
    return examination.run, examination.trace


@pytest.mark.parametrize("first", [1000, WRAP])
def test_every_figure_is_exact(tmp_path: Path, first: int) -> None:
    verdict = judge(two_moves(first).write(tmp_path))
    assert verdict.verdict == "succeeded", verdict.reason
    figures = verdict.figures
    assert figures["migrations"] == figures["migrations_asked"] == 2
    assert figures["handshakes"] == 1
    assert figures["resets"] == figures["client_errors"] == figures["other_connections"] == 0
    assert figures["hash_ok"] is True
    assert figures["payload_bytes_s1"] == 3000 + 4000
    assert figures["payload_bytes_s2"] == 3000
    assert figures["duplicate_bytes"] == 500 + 2000
    assert figures["max_gap_ms"] == pytest.approx(3.5)  # 11 -> 14.5
    assert figures["duration_s"] == pytest.approx(0.0135)
    assert figures["goodput_mbps"] == pytest.approx(10_000 * 8 / 0.0135 / 1e6)
    assert figures["first_byte_ms_median"]["value"] == pytest.approx((2.0 + 1.5) / 2, abs=1e-3)
    assert figures["first_byte_ms_median"]["n"] == 2
    assert figures["migration_ms_median"]["value"] == pytest.approx((1.75 + 1.0) / 2)


def test_moves(tmp_path: Path) -> None:
    run, trace = traced(two_moves().write(tmp_path))
    assert trace.moves[["from", "to"]].to_numpy().tolist() == [["s1", "s2"], ["s2", "s1"]]
    assert trace.moves["stall_ms"].tolist() == pytest.approx([3.25, 3.0])  # 4 -> 7.25, 8 -> 11
    assert trace.moves["handover"].tolist() == [3000, 6000]
    assert migrations.reported(trace, run.migrations)["first_byte_ms"].tolist() == pytest.approx([2.0, 1.5])


def test_goodput_bins_hold_every_byte(tmp_path: Path) -> None:
    _, trace = traced(two_moves().write(tmp_path))
    bins = migrations.goodput(trace.deliveries, 2)
    assert bins["time_s"].tolist() == pytest.approx(np.arange(7) * 0.002)
    assert bins["s1"].tolist() == pytest.approx([8, 4, 0, 0, 0, 4, 12])  # 1000 bytes in 2 ms are 4 Mbit/s
    assert bins["s2"].tolist() == pytest.approx([0, 0, 0, 12, 0, 0, 0])


def test_new_is_what_the_client_did_not_have_before(tmp_path: Path) -> None:
    """The new server begins below what its predecessor had delivered before the MIGRATE SYN."""
    run = Download()
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    run.move(2, 3, "s2")
    run.data(4, "s2", 600, 400)
    run.data(5, "s2", 1000, 1000)
    run.report(1.5, "s1", "s2")
    _, trace = traced(run.write(tmp_path))
    assert trace.moves["migration_ms"].tolist() == pytest.approx([2.0])
    assert trace.moves["stall_ms"].tolist() == pytest.approx([4.0])
    assert judge(tmp_path).figures["first_byte_ms_median"]["value"] == pytest.approx(3.5)


def test_the_old_server_may_go_on_up_to_the_handover(tmp_path: Path) -> None:
    """Make-before-break: no gap, and nothing of the old server's is refused."""
    run = Download()
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    run.move(1.5, 1.6, "s2")
    run.data(2, "s1", 1000, 1000)
    run.data(3, "s2", 2500, 500)
    run.data(3.5, "s1", 2000, 500)
    run.report(1, "s1", "s2")
    _, trace = traced(run.write(tmp_path))
    assert trace.duplicate_bytes == 0
    assert trace.payload_by_server() == {"s1": 2500, "s2": 500}


def deaf_before_its_syn() -> Download:
    """S1 has sent bytes beyond a gap; to the next, which fills it, the client's mapping is deaf already."""
    run = Download()
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    run.acknowledge(1.1, "s1", 1000)
    run.data(2, "s1", 3000, 3000)
    run.acknowledge(2.1, "s1", 1000)
    run.data(3, "s1", 1000, 2000)
    run.report(2.9, "s1", "s2")
    run.move(4, 5, "s2")
    run.data(6, "s2", 1000, 1000)
    run.acknowledge(6.1, "s2", 2000)
    return run


def test_what_is_refused_before_the_migrate_syn_the_new_server_brings(tmp_path: Path) -> None:
    run = deaf_before_its_syn()
    run.data(7, "s2", 2000, 1000)
    run.acknowledge(7.1, "s2", 3000)  # it has 6000, but s2 has sent no more
    run.data(8, "s2", 3000, 3500)
    _, trace = traced(run.write(tmp_path))
    assert trace.deliveries["edge"].tolist() == [1000, 1000, 2000, 2000, 6000, 6500]
    assert trace.duplicate_bytes == 1000 + 1000 + 3000


def test_what_the_client_had_behind_a_gap_it_keeps_when_it_moves(tmp_path: Path) -> None:
    """Although it acknowledges none of it to the new server, whose own segment with these bytes is lost."""
    run = deaf_before_its_syn()
    run.data(7, "s2", 2000, 500)
    run.data(8, "s2", 2500, 500)
    run.acknowledge(8.1, "s2", 3000)
    run.data(9, "s2", 5000, 2000)
    run.acknowledge(9.1, "s2", 7000)
    _, trace = traced(run.write(tmp_path))
    assert (trace.delivered, trace.has_hole) == (7000, False)
    assert trace.moves["new_ns"].notna().all() and trace.payload_by_server() == {"s1": 5000, "s2": 2000}


def test_what_comes_late_of_a_server_to_which_the_client_moves_back(tmp_path: Path) -> None:
    """Between MIGRATE SYN and ACCEPT the mapping hears nobody; and where S1 begins now, these segments do not say."""
    run = Download()
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    run.report(1.4, "s1", "s2")
    run.move(1.5, 2, "s2")
    run.data(3, "s2", 1000, 2000)
    run.report(3.9, "s2", "s1")
    run.control(4, "client", "s1", MIGRATE, SYN)
    run.data(4.5, "s1", 2000, 3000)
    run.control(5, "s1", "client", ACCEPT, SYN | ACK)
    run.data(6, "s1", 3000, 1000)
    run.acknowledge(6.1, "s1", 4000)
    run.data(7, "s1", 4000, 2000)
    _, trace = traced(run.write(tmp_path))
    assert trace.moves["handover"].tolist() == [1000, 3000]
    assert trace.moves["migration_ms"].tolist() == pytest.approx([1.5, 2.0])
    assert trace.deliveries["fresh"].tolist() == [1000, 2000, 0, 1000, 2000]


def test_repeated_and_failed_attempts(tmp_path: Path) -> None:
    run = Download()
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    run.control(2, "client", "s2", MIGRATE, SYN)
    run.control(3, "client", "s2", MIGRATE, SYN)
    run.control(4, "client", "s1", ABORT)
    run.data(5, "s1", 1000, 1000)
    run.control(6, "client", "s2", MIGRATE, SYN)
    run.move(7, 7.5, "s2")
    run.data(8, "s2", 2000, 1000)
    run.report(1.9, "s1", "s2", committed_ns=0, outcome="kept", reason="UNKNOWN_CONNECTION")
    run.report(5.9, "s1", "s2")
    _, trace = traced(run.write(tmp_path))
    assert trace.attempts == 2
    assert trace.moves["migration_ms"].tolist() == pytest.approx([2.0])
    verdict = judge(tmp_path)
    assert verdict.verdict == "failed"
    assert verdict.reason == "moves on the wire: 1, asked for: 2 (first outcome otherwise: UNKNOWN_CONNECTION)"
    assert verdict.figures["first_byte_ms_median"]["n"] == 1


def test_a_server_that_leaves_again_before_it_sends_anything(tmp_path: Path) -> None:
    """S1 -> S2 -> S1 (silent) -> S2: not a move by the capture, and no reason to refuse what S2 sends later."""
    run = Download()
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    run.move(2, 2.5, "s2")
    run.data(3, "s2", 1000, 1000)
    run.move(4, 4.5, "s1")
    run.data(4.6, "s2", 2000, 500)  # refused: S2 begins there again
    run.move(5, 5.5, "s2")
    run.data(6, "s2", 2000, 1000)
    run.move(7, 7.5, "s1")
    run.data(8, "s1", 3000, 1000)
    for decided, source, to in ((1.5, "s1", "s2"), (3.5, "s2", "s1"), (4.7, "s1", "s2"), (6.5, "s2", "s1")):
        run.report(decided, source, to)
    _, trace = traced(run.write(tmp_path))
    assert trace.moves["from"].tolist() == ["s1", "s1", "s2"]
    assert trace.moves["stall_ms"].tolist() == pytest.approx([2, 3, 2])
    assert (trace.delivered, trace.duplicate_bytes) == (4000, 500)
    assert judge(tmp_path).reason == "migration 2 is reported, but no new payload of s1 followed"


def reset(run: Download) -> None:
    run.segment(12, "s2", "client", 99, RST | ACK, seen_by=("s2", "client"))


def reset_at_server_only(run: Download) -> None:
    run.segment(12, "client", "s1", 99, RST, seen_by=("s1",))


def second_handshake(run: Download) -> None:
    run.segment(12, "client", "s2", 4711, SYN)


def other_connection(run: Download) -> None:
    run.handshake(12, "s2", CLIENT_PORT + 1)


def phantom_move(run: Download) -> None:
    run.report(15, "s1", "s2")


def unreported_asked(run: Download) -> None:
    run.report(15, "s1", "s2", committed_ns=None, outcome="rejected")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (reset, "1 RST on the connection"),
        (reset_at_server_only, "1 RST on the connection"),
        (second_handshake, "2 handshakes on the client's port, not one"),
        (other_connection, "the client opened 1 more connections to the service"),
        (phantom_move, "migration 3 is reported, but no new payload of s2 followed"),
        (unreported_asked, "moves on the wire: 2, asked for: 3 (first outcome otherwise: rejected)"),
    ],
)
def test_failures_on_the_wire(tmp_path: Path, change: Callable[[Download], None], reason: str) -> None:
    run = two_moves()
    change(run)
    verdict = judge(run.write(tmp_path))
    assert (verdict.verdict, verdict.reason) == ("failed", reason)


@pytest.mark.parametrize(
    ("facts", "word", "reason"),
    [
        ({"client_exit": 18}, "failed", "the client exited with 18"),
        ({"received_sha256": "cd" * 32}, "failed", "hashes differ"),
        ({"expected_sha256": None, "received_sha256": None}, "failed", "hashes differ"),
        ({"capture_drops": {"client": 0, "s1": 3}}, "invalid", "the capture at s1 dropped 3 packets"),
    ],
)
def test_failures_off_the_wire(tmp_path: Path, facts: dict[str, Any], word: str, reason: str) -> None:
    verdict = judge(two_moves().write(tmp_path, **facts))
    assert verdict.verdict == word
    assert reason in verdict.reason


def test_a_server_without_payload_is_a_failure(tmp_path: Path) -> None:
    run = Download()
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    run.report(2, "s1", "s2")
    assert judge(run.write(tmp_path)).reason == "no payload from s2 reached the client"


def test_a_retransmitted_syn_is_no_second_handshake(tmp_path: Path) -> None:
    run = two_moves()
    run.segment(0.5, "client", "s1", 77, SYN)
    assert judge(run.write(tmp_path)).verdict == "succeeded"


def test_a_hole_in_the_stream_makes_the_capture_no_evidence(tmp_path: Path) -> None:
    run = two_moves()
    run.data(15, "s1", 12_000, 1000)
    verdict = judge(run.write(tmp_path))
    assert (verdict.verdict, verdict.reason) == (
        "invalid", "the client's capture lacks bytes of the stream after offset 10000",
    )  # fmt: skip


def test_missing_and_truncated_captures_are_invalid(tmp_path: Path) -> None:
    two_moves().write(tmp_path)
    path = tmp_path / "s2.pcap"
    path.write_bytes(path.read_bytes()[:-5])
    assert judge(tmp_path).reason == "the capture s2.pcap ends inside a packet"
    (tmp_path / "client.pcap").unlink()
    verdict = judge(tmp_path)
    assert (verdict.verdict, verdict.reason) == ("invalid", "the capture client.pcap is missing")
    assert verdict.figures["max_gap_ms"] is None


def test_empty_captures_are_judged(tmp_path: Path) -> None:
    assert judge(Download().write(tmp_path)).reason == "0 handshakes on the client's port, not one"


def test_no_moves_asked_for(tmp_path: Path) -> None:
    run = Download()
    run.handshake(0)
    run.data(1, "s1", 0, 1000)
    assert judge(run.write(tmp_path)).verdict == "succeeded"


def test_progress_follows_holes_and_overlaps() -> None:
    offset = np.array([0, 30, 50, 25, 10, 0, 70])
    length = np.array([10, 10, 10, 40, 15, 65, 5])
    fresh, edge = migrations.progress(offset, length)
    assert fresh.tolist() == [10, 10, 10, 20, 15, 0, 5]
    assert edge.tolist() == [10, 10, 10, 10, 65, 65, 65]


def test_progress_is_that_of_a_receiver_that_marks_every_byte() -> None:
    random = np.random.default_rng(5)
    for _ in range(60):
        offset = np.sort(random.integers(0, 120, 40)) + random.integers(-25, 25, 40)
        length = random.integers(-3, 12, 40)
        fresh, edge = migrations.progress(offset.clip(0), length)
        got: set[int] = set()
        for i, (start, size) in enumerate(zip(offset.clip(0).tolist(), length.tolist(), strict=True)):
            new = set(range(start, start + size)) - got
            got |= new
            assert fresh[i] == len(new)
            assert edge[i] == next(n for n in range(500) if n not in got)


def test_medians_and_ratios() -> None:
    samples = np.random.default_rng(1).normal(10, 1, 400)
    estimate = statistics.median(samples)
    assert estimate == statistics.median(samples)
    assert estimate.low is not None and estimate.value is not None and estimate.high is not None
    assert 9.7 < estimate.low < estimate.value < estimate.high < 10.3
    assert statistics.median([3.0, float("nan")]).as_dict() == {"value": 3.0, "ci95": [None, None], "n": 1}
    assert statistics.median([]).as_dict() == {"value": None, "ci95": [None, None], "n": 0}
    assert statistics.ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0]).as_dict() == {
        "value": 2,
        "ci95": [2, 2],
        "n": 3,
    }
    with pytest.raises(ValueError, match="paired"):
        statistics.ratio([1.0], [1.0, 2.0])


def test_what_is_no_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a directory"):
        judge(tmp_path / "absent")
    with pytest.raises(RunError, match=r"run\.json is missing"):
        judge(tmp_path)
    Download().write(tmp_path, {"schema_version": 2})
    with pytest.raises(RunError, match="schema version 2"):
        judge(tmp_path)


@pytest.mark.parametrize(
    ("fidelity", "facts", "verdict", "reason"),
    [
        ({"exceeded": ["slow", "late"]}, {}, "invalid", "slow; late"),
        ({"exceeded": ["slow"]}, {"client_exit": 7}, "failed", "the client exited with 7"),
        ({"exceeded": ["dead"], "void": "dead"}, {"client_exit": 7}, "invalid", "dead"),
        ({"exceeded": []}, {}, "succeeded", "2 moves"),
    ],
)
def test_the_machine_must_have_been_up_to_it(
    tmp_path: Path, fidelity: dict[str, Any], facts: dict[str, Any], verdict: str, reason: str
) -> None:
    judged = judge(two_moves().write(tmp_path, {"fidelity": fidelity}, **facts))
    assert judged.verdict == verdict
    assert judged.reason.startswith(reason)
