"""M-TCP: agents on client and servers; the client program is the one of plain TCP, and knows nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from experiments.mechanisms.base import Mechanism
from experiments.plan import Trial
from experiments.stage import Stage
from mtcp.policy import SERVER_NAMES
from testbed.processes import checked


class Mtcp(Mechanism):
    """See above."""

    name = "mtcp"
    summary = "Migratory TCP: the server's end of the connection moves"
    agents = True

    def settings(self, trial: Trial) -> dict[str, Any]:
        return {**super().settings(trial), "asking": (trial.policy,) if _of_servers(trial.policy) else ()}

    def set_policy(self, stage: Stage) -> None:
        policy = "hints" if _of_servers(stage.policy) else stage.policy
        checked(stage.network.client, str(Path(sys.executable).with_name("mtcp")), "policy", policy)


def _of_servers(policy: str) -> bool:
    """Whether it is one with which servers ask clients to leave, who do as they are asked."""
    return policy.partition(":")[0] in SERVER_NAMES
