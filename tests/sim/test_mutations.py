"""The simulator finds what is wrong: the protocol is broken in one place, and some run fails."""

from __future__ import annotations

import pytest

from mtcp.sim import NETWORKS, Simulation, SimulationError
from tests.sim.mutations import MUTATIONS

pytestmark = pytest.mark.sim
RUNS = 1500
WHERE = {
    "came back by anything": "amnesiac",
    "lag ignored": "bad",
    "unfence on timer": "secluded",
    "stale ABORT resumes": "amnesiac",
    "never asks": "amnesiac",
    "never told": "forgetful",
    "DONE before the commit": "hardly",
    "refused, and goes on": "all",
    "ACK3 for what was given up": "hardly",
    "commits to what was given up": "amnesiac",
    "REFUSAL taken for ABORT": "amnesiac",
}
"""The faults among which it shows soonest; the others show without any."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTATIONS)
def test_it_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    network = NETWORKS[WHERE.get(name, "quiet")]
    for seed in range(RUNS):
        try:
            Simulation(seed, network, 2 + seed % 2, moves=5).run()
        except SimulationError:
            return
    pytest.fail(f"{RUNS} runs do not notice")
