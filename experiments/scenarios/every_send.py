"""Every send: what moving costs a download that moves all the time. (The M-TCP papers' second figure.)

A client downloads, undisturbed at first: that is the reference. From the time of the "fault" on, nothing goes wrong,
but the connection moves each time the server has sent so many bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from experiments.plan import Trial
from experiments.scenario import LINKS, TIMES, Factor, Scenario
from experiments.stage import Stage
from topologies import two_servers

KIB = 1024


class EverySend(Scenario):
    """See above."""

    name = "every-send"
    mechanisms = ("mtcp", "reconnect", "quic")
    policy = "every"
    factors: ClassVar[Mapping[str, Factor]] = {
        "bw": LINKS["bw"],
        "rtt": Factor(0.0, "round-trip time between client and server, 0: none is added [ms]"),
        **TIMES,
        "bytes": Factor(256 * KIB, "that a server sends before it is left", tuple(64 * KIB << i for i in range(8))),
    }

    def network(self, trial: Trial, **settings: Any) -> AbstractContextManager[two_servers.Running]:
        return two_servers.running(bw=trial.factors["bw"] or math.inf, rtt=trial.factors["rtt"] or None, **settings)

    def perform(self, stage: Stage) -> None:
        stage.set_clock()
        client = stage.start("download")
        stage.fault("moves begin", lambda: None)
        client.finish()
