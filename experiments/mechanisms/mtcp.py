"""M-TCP: agents on client and servers; the client program is the one of plain TCP, and knows nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.mechanisms.base import Mechanism
from experiments.stage import Stage
from testbed.processes import checked


class Mtcp(Mechanism):
    """See above."""

    name = "mtcp"
    summary = "Migratory TCP: the server's end of the connection moves"
    agents = True

    def set_policy(self, stage: Stage) -> None:
        checked(stage.network.client, str(Path(sys.executable).with_name("mtcp")), "policy", stage.policy)
