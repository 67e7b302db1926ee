"""The three roles among faults, ten thousand times; a seed that fails shows its trace and how to replay it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from mtcp import sim_server
from mtcp.sim import NETWORKS, Simulation, SimulationError, replay
from mtcp.snapshot import StateReply, compose

pytestmark = pytest.mark.sim
SEEDS, SLICE = 10_000, 50
KINDS = [(network, servers) for network in NETWORKS for servers in (2, 3)]
Slice = tuple[str, int, int]


def run_slice(where: Slice) -> tuple[int, list[str]]:
    """How often connections moved in SLICE runs, and what failed."""
    network, servers, first = where
    moved, failures = 0, []
    for seed in range(first, first + SLICE):
        try:
            moved += len(Simulation(seed, NETWORKS[network], servers).run())
        except SimulationError as error:
            failures.append(f"{replay(seed, network, servers)}\n{error}")
    return moved, failures


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        yield pool


@pytest.mark.timeout(600)
@pytest.mark.parametrize("network", NETWORKS)
def test_exactly_once_one_owner_and_an_end(network: str, processes: ProcessPoolExecutor) -> None:
    seeds = SEEDS // len(KINDS)
    slices = [(network, servers, first) for servers in (2, 3) for first in range(0, seeds, SLICE)]
    results = list(processes.map(run_slice, slices))
    failures = [failure for _, failed in results for failure in failed]
    assert not failures, f"{len(failures)} of {2 * seeds} runs fail; the first:\n{failures[0]}"
    # Most attempts succeed even so: a test in which nothing moves would prove nothing.
    assert sum(moved for moved, _ in results) > 1.5 * 2 * seeds


def test_a_quiet_network_needs_one_message_of_each_kind() -> None:
    simulation = Simulation(1, moves=1)
    first, _ = simulation.run()
    assert first.ip == "10.0.0.2"
    lines = [str(entry) for entry in simulation.net.trace]
    lines = lines[: next(i for i, line in enumerate(lines) if "MIGRATE 2" in line)]
    kinds = ["MIGRATE", "STATE_REQUEST", "STATE_REPLY", "ACCEPT", "commits", "ACK3", "moved", "DONE frame", "DONE_ACK"]
    places = [[i for i, line in enumerate(lines) if kind in line] for kind in kinds]
    assert [len(found) for found in places] == [1] * len(kinds)
    order = [found[0] for found in places]
    assert order[:5] == sorted(order[:5])


def test_the_same_seed_gives_the_same_run() -> None:
    traces = []
    for _ in range(2):
        simulation = Simulation(7, NETWORKS["all"], moves=5)
        simulation.run()
        traces.append(list(map(str, simulation.net.trace)))
    assert traces[0] == traces[1]


def test_faults_reach_the_paths_that_they_are_for() -> None:
    traces = ""
    for network in ("hardly", "all", "deadly", "left"):
        for seed in range(60):
            simulation = Simulation(seed, NETWORKS[network], moves=5)
            simulation.run()
            traces += "\n".join(map(str, simulation.net.trace))
    for text in (
        *("LOST", "TWICE", "CUT", "cut for", "aborted", "ABORT ", "ABORT_ACK", "REFUSAL", "STATE_REJECT", "dropped:"),
        *("LOG_OVERFLOW", "BUSY", "RESTORE_FAILED", "UNKNOWN_CONNECTION", "STALE_ATTEMPT", "QUERY ", "QUERY frame"),
        *("C: agent dies", "S1: agent dies", "S2: agent begins anew", "whole server dies", "application dies"),
    ):
        assert text in traces, text


def test_a_failure_shows_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte too many is discarded: the client misses it, and the trace says how that came."""

    def wrong(*arguments: Any) -> StateReply:
        reply = compose(*arguments)
        object.__setattr__(reply, "snd_bytes_discard", reply.snd_bytes_discard + 1)
        return reply

    monkeypatch.setattr(sim_server, "compose", wrong)
    with pytest.raises(SimulationError) as failure:
        for seed in range(20):
            Simulation(seed).run()
    trace = str(failure.value)
    assert "C -> S2 MIGRATE 1" in trace
    assert "S1 -> S2 STATE_REPLY 1" in trace
    assert trace.splitlines()[-1].startswith("AssertionError: the client's stream")
