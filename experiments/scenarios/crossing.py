"""Other traffic on the path from S1 of a dumbbell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from experiments.stage import Stage
from testbed.cross_traffic import CrossTraffic

LESS = 0.9
"""Of the UDP asked for: if less was sent, the machine was too busy."""


@contextmanager
def cross_traffic(stage: Stage, udp_mbit: float | None = None, flows: int = 1) -> Iterator[None]:
    """From the time of the fault to the end of the block: UDP at that rate, or else so many TCP connections."""
    net, logs = stage.network.net, stage.run.directory

    def begin() -> CrossTraffic:
        return CrossTraffic(net["x2"], net["x1"], udp_mbit, streams=flows, udp=udp_mbit is not None, logs=logs)

    with stage.fault("cross traffic", begin) as traffic:
        yield
        report = traffic.finish()
    stage.run.event("cross traffic", **report)
    if udp_mbit is not None and report["sent_mbit"] < LESS * report["asked_mbit"]:
        stage.run.void(f"the machine was too busy: {report['sent_mbit']:g} Mbit/s of cross traffic")
