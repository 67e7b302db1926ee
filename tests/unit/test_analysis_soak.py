"""Verdicts on rounds of a soak with known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import capture, losses, soak
from analysis.capture import ABORT, ACCEPT, ACK, FIN, MIGRATE, RST, SYN
from analysis.connections import connections
from analysis.synthetic import CLIENT_PORT, HOSTS, SERVICE_PORT, START_NS, Download, frame, mtcp_option, pcap


def one_move() -> Download:
    """A download that moves from s1 to s2 after 20 ms; the ACCEPT comes at the second attempt, 200 ms later."""
    made = Download()
    made.handshake(0, "s1")
    made.data(10, "s1", 0, 1000)
    made.control(20, "client", "s2", MIGRATE, SYN)
    made.data(21, "s1", 1000, 500)  # refused: the mapping is deaf
    made.control(220, "client", "s2", MIGRATE, SYN)
    made.control(221, "s2", "client", ACCEPT, SYN | ACK)
    made.data(222, "s2", 1000, 1000)
    made.report(20, "s1", "s2", outcome="moved", attempt=1, connection=f"{HOSTS['client']}:{CLIENT_PORT}")
    made.events[-1] |= {"committed_ns": made.events[-1]["decided_ns"] + 201_000_000, "service_port": SERVICE_PORT}
    made.events[-1] |= {"from": "s1", "to": "s2"}
    return made


def round_of(made: Download, path: Path, lost: list[tuple[int, bytes]] | None = None, **facts: Any) -> Path:
    client = {"workload": "download", "host": "client", "port": SERVICE_PORT, "ok": True, "said": ""}
    defaults: dict[str, Any] = {"clients": [client], "loss": {"passed": 100, "lost": 1}, "control_port": 7000}
    made.write(path, **(defaults | {"control": {"s1": "10.1.0.1", "s2": "10.1.0.2"}} | facts))
    (path / "lost.pcap").write_bytes(pcap(lost or []))
    return path


def test_a_round_that_is_as_it_should_be(tmp_path: Path) -> None:
    syn = frame(HOSTS["client"], HOSTS["s2"], CLIENT_PORT, SERVICE_PORT, 5, SYN, options=mtcp_option(MIGRATE))
    figures = soak.judge_round(round_of(one_move(), tmp_path, [(START_NS + 20_100_000, syn)]))
    assert (figures["verdict"], figures["migrations"], figures["kept"]) == ("succeeded", 1, 0), figures
    assert figures["worst"]["gap_ms"] == pytest.approx(212)  # from 10 ms on: what s1 sent later was not let in
    assert any("lost: MIGRATE client→s2" in line for line in figures["worst"]["timeline"])
    assert figures["causes"] == {"MIGRATE lost": {"moves": 1, "gap_ms_max": 212.0}}
    assert list(pd.read_parquet(tmp_path / "samples.parquet")["on_wire"]) == [True]


def test_a_reset_counts_until_both_ends_have_closed(tmp_path: Path) -> None:
    made = one_move()
    made.segment(300, "client", "s2", 77, FIN | ACK)
    made.segment(301, "s2", "client", made.first + 2000, FIN | ACK)
    made.segment(302, "s2", "client", made.first + 2001, RST)
    assert soak.judge_round(round_of(made, tmp_path / "after"))["verdict"] == "succeeded"
    made = one_move()
    made.segment(300, "client", "s2", 77, FIN | ACK)
    made.segment(302, "s2", "client", made.first + 2001, RST)
    figures = soak.judge_round(round_of(made, tmp_path / "before"))
    assert (figures["verdict"], figures["reason"]) == ("failed", "1 RST on connections")


def test_what_clients_say_counts(tmp_path: Path) -> None:
    client = {"workload": "download", "host": "client", "port": SERVICE_PORT, "ok": False, "said": "wrong bytes at (9)"}
    figures = soak.judge_round(round_of(one_move(), tmp_path, clients=[client]))
    assert (figures["verdict"], figures["clients_wrong"]) == ("failed", 1)
    assert "wrong bytes at (9)" in figures["reason"]


def test_a_move_that_is_only_reported_fails(tmp_path: Path) -> None:
    made = one_move()
    made.events.append({**made.events[0], "attempt": 2, "from": "s2", "to": "s1"})
    figures = soak.judge_round(round_of(made, tmp_path))
    assert figures["verdict"] == "failed" and "attempt 2 is reported" in figures["reason"]


def test_a_capture_that_lost_packets_is_no_evidence(tmp_path: Path) -> None:
    figures = soak.judge_round(round_of(one_move(), tmp_path, capture_drops={"s1": 3}))
    assert figures["verdict"] == "invalid"


def test_connections_of_one_port_to_two_services_are_two(tmp_path: Path) -> None:
    made = one_move()
    other = frame(HOSTS["client"], HOSTS["s1"], CLIENT_PORT, SERVICE_PORT + 1, 9, SYN)
    made.packets["client"].append((START_NS + 5_000_000, other))
    packets = capture.read(round_of(made, tmp_path) / "client.pcap")
    found = list(connections(packets, HOSTS["client"]))
    assert [each.handshakes for each in found] == [1, 1]
    assert [len(each.commits) for each in found] == [1, 0]


def test_an_attempt_that_is_given_up_leaves_the_connection_where_it_was(tmp_path: Path) -> None:
    made = Download()
    made.handshake(0, "s1")
    made.data(10, "s1", 0, 1000)
    made.control(20, "client", "s2", MIGRATE, SYN)
    made.data(30, "s1", 1000, 500)
    made.control(40, "client", "s1", ABORT)
    made.data(50, "s1", 1000, 1000)
    [found] = connections(capture.read(round_of(made, tmp_path) / "client.pcap"), HOSTS["client"])
    assert found.commits == []
    assert [(time - START_NS) / 1e6 for time in found.worst_gap] == [10, 50]


@pytest.mark.parametrize(
    ("gap_ms", "handshake_ms", "kinds", "cause"),
    [
        (50, 40, ["data"], "no timer"),
        (250, 210, ["ACCEPT", "data"], "ACCEPT lost"),
        (250, 210, ["control connection", "MIGRATE"], "MIGRATE and control connection lost"),
        (250, 210, [], "slow handshake, nothing lost"),
        (250, 10, ["acknowledgement"], "acknowledgement lost: RTO"),
        (250, 10, [], "RTO or pause, nothing lost"),
    ],
)
def test_causes(gap_ms: float, handshake_ms: float, kinds: list[str], cause: str) -> None:
    assert losses.cause(gap_ms, handshake_ms, pd.DataFrame({"kind": kinds})) == cause


def test_rounds_are_put_together(tmp_path: Path) -> None:
    for number in (1, 2):
        soak.judge_round(round_of(one_move(), tmp_path / "round" / f"r{number}"))
    (tmp_path / "round" / "latest").symlink_to("r2")
    figures = soak.summarise(tmp_path, "round")
    assert (figures["verdict"], figures["rounds"], figures["migrations"], figures["packets"]) == (
        "succeeded",
        2,
        2,
        200,
    )
    assert json.loads((tmp_path / "summary.json").read_text()) == figures
