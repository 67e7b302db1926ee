"""The three roles on an unreliable network, thousands of times; a seed that fails shows its trace."""

from __future__ import annotations

from typing import Any

import pytest

from mtcp import sim_server
from mtcp.sim import Faults, Simulation, SimulationError
from mtcp.snapshot import StateReply, compose

pytestmark = pytest.mark.sim
SEEDS = 440
NETWORKS = {
    "quiet": Faults(),
    "late": Faults(delay=0.3),
    "lossy": Faults(loss=0.1, duplication=0.1, delay=0.05),
    "bad": Faults(loss=0.2, duplication=0.3, delay=0.5),
    "hardly": Faults(loss=0.4, duplication=0.3, delay=1.0),
}


@pytest.mark.parametrize("servers", [2, 3])
@pytest.mark.parametrize("faults", NETWORKS.values(), ids=NETWORKS)
def test_exactly_once_one_owner_and_an_end(faults: Faults, servers: int) -> None:
    moved = 0
    for seed in range(SEEDS // 2):
        try:
            moved += len(Simulation(seed, faults, servers).run())
        except SimulationError as error:
            pytest.fail(f"seed {seed}, {faults}, {servers} servers\n{error}", pytrace=False)
    # Most attempts succeed even so: a test in which nothing moves would prove nothing.
    assert moved > 2 * SEEDS // 2


def test_a_quiet_network_needs_one_message_of_each_kind() -> None:
    simulation = Simulation(1, moves=1)
    (moved_to,) = simulation.run()
    assert moved_to.ip == "10.0.0.2"
    kinds = ["Migrate", "STATE_REQUEST", "STATE_REPLY", "Accept", "commits", "Ack3", "moved", "DONE 1", "DONE_ACK"]
    places = [[i for i, line in enumerate(simulation.net.trace) if kind in line] for kind in kinds]
    assert [len(lines) for lines in places] == [1] * len(kinds)
    order = [lines[0] for lines in places if lines]
    assert order[:5] == sorted(order[:5])


def test_the_same_seed_gives_the_same_run() -> None:
    traces = []
    for _ in range(2):
        simulation = Simulation(7, NETWORKS["bad"], moves=5)
        simulation.run()
        traces.append(simulation.net.trace)
    assert traces[0] == traces[1]


def test_attempts_are_aborted_in_some_runs() -> None:
    """The faults reach the paths that they are for."""
    traces = ""
    for seed in range(120):
        simulation = Simulation(seed, NETWORKS["hardly"], moves=5)
        simulation.run()
        traces += "\n".join(simulation.net.trace)
    for text in ("LOST", "TWICE", "aborted", "Abort(", "AbortAck(", "STATE_REJECT", "LOG_OVERFLOW", "dropped:"):
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
    assert "C -> 10.0.0.2 Migrate(" in trace
    assert "10.0.0.1 -> 10.0.0.2 STATE_REPLY 1" in trace
    assert trace.splitlines()[-1].startswith("AssertionError: the client's stream")
