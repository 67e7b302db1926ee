"""Figures that only the scenario itself can take, noted in the run's facts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from experiments.stage import Stage
from testbed import cpu


def note(stage: Stage, **values: float) -> None:
    """Put figures into the run's facts; each name has its unit."""
    stage.run.metadata["facts"].setdefault("measured", {}).update(values)


@contextmanager
def cpu_used(stage: Stage) -> Iterator[None]:
    """Note the seconds of CPU that the processes of each host use in the block: `cpu_s_<host>`.

    What the kernel does for a host outside all processes, much of its work on received packets, is not in it.
    """
    hosts = [stage.network.client, *stage.network.servers]
    before = {host.name: cpu.used(host) for host in hosts}
    yield
    note(stage, **{f"cpu_s_{host.name}": round(cpu.used(host) - before[host.name], 4) for host in hosts})
