"""How well load keeps its promises on this machine: CPU quotas and arrivals. `python -m experiments.bench_load`.

Each figure is what was asked for beside what was had. A figure that the machine was too busy for says so: nobody else
should run on it. (Floods are measured by experiments.bench_testbed.)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed import cpu, doctor, sandbox
from testbed.errors import TestbedError
from testbed.generators import Generator
from testbed.nodes import MtcpHost
from testbed.processes import Program
from topologies.pool import running

QUOTAS = (0.1, 0.25, 0.5)
RATES = (50, 200, 500)
SECONDS = 5.0


@dataclass(frozen=True)
class Figure:
    """One row of the table."""

    what: str
    asked: float
    had: float
    unit: str
    note: str = ""


def figures(server: MtcpHost, client: MtcpHost, logs: Path, seconds: float = SECONDS) -> Iterator[Figure]:
    """All of them; `server` has an HTTP server on port 80 with a file /small."""
    yield from quotas(server, logs, seconds)
    yield from arrivals(client, server, logs, seconds)


def quotas(host: MtcpHost, logs: Path, seconds: float = SECONDS) -> Iterator[Figure]:
    """What two processes that want all they can get have of a core."""
    for cores in QUOTAS:
        cpu.set_cpu(host, cores)
        burners = Generator(host, "testbed.load", "burn", "--processes", 2, log=logs / "burn.log")
        before, begun, (periods, waited) = cpu.used(host), time.monotonic(), cpu.throttled(host)
        time.sleep(seconds)
        had = (cpu.used(host) - before) / (time.monotonic() - begun)
        periods, waited = (now - then for now, then in zip(cpu.throttled(host), (periods, waited), strict=True))
        burners.finish()
        note = f"{100 * waited / max(1, periods):.0f} % of the periods used up"
        yield Figure("CPU quota", cores, round(had, 4), "cores", note)
    cpu.set_cpu(host, None)


def arrivals(client: MtcpHost, server: MtcpHost, logs: Path, seconds: float = SECONDS) -> Iterator[Figure]:
    """Requests in open loop."""
    for rate in RATES:
        words = [f"{server.IP()}:80", "--path", "/small", "--rate", rate, "--seconds", seconds]
        found = Generator(client, "testbed.load", "open", *words, log=logs / "open.log").result()
        late, latency = found["late_ms"], found["latency_ms"]
        note = f"late by {late['p50']:g} ms, p99 {late['p99']:g}; latency {latency['p50']:g} ms, p99 {latency['p99']:g}"
        yield Figure("open loop", rate, found["rate"], "requests/s", f"{note}; {found['failed']} failed")


def main() -> int:
    sandbox.enter()
    doctor.require("mnexec", "ip", "tc", "ifconfig")
    table = Table("what", "asked", "had", "unit", "")
    logs = sandbox.RUN / "log"
    try:
        with running(1, 1, agents=False, big=10_000, logs=logs) as network:
            serve = ["-m", "testbed.services.files", "--plain", "--directory", str(network.directory)]
            files = Program(network.servers[0], [sys.executable, *serve], logs / "files.log")
            files.wait_for("listening")
            for figure in figures(network.servers[0], network.client, logs):
                table.add_row(figure.what, f"{figure.asked:g}", f"{figure.had:g}", figure.unit, figure.note)
    except TestbedError as error:
        print(f"bench_load: {error}", file=sys.stderr)
        return 1
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
