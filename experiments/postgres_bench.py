"""What M-TCP adds to a transaction that does not move: pgbench through a front-end of PostgreSQL, on M-TCP and without.

The front-end is the same program on the same server. Rounds of both alternate, so that what changes in the machine
meets both alike; each pair of neighbours gives a ratio of their transactions' medians.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from testbed import selftest
from testbed.processes import checked
from testbed.results import Run
from topologies.database import PLAIN_PORT, PORT, Running, running

BAR = 1.10
"""The latency with M-TCP over that without, at most."""
PROTOCOLS = ("simple", "extended", "prepared")
SCRIPTS = ("tpcb-like", "select-only")
NORMAL = 1.96
"""Standard deviations to either side: 95 %."""
TOOK = 2
"""Column of pgbench's log: microseconds of a transaction."""


@dataclass(frozen=True)
class DatabaseBench:
    """What is varied."""

    pairs: int = 20
    transactions: int = 200
    """In each round, by one client."""
    rtt: float = 0.0
    """Milliseconds between client and servers; 0: as fast as the machine is."""


def bench(run: Run, setting: DatabaseBench, console: Console) -> dict[str, Any]:
    """The figures, which are also in summary.json; the run has its verdict then."""
    found: dict[str, dict[str, float]] = {}
    with running(big=1_000_000, rtt=setting.rtt or None, logs=run.path("logs")) as network:
        run.sysctls({host.name: host.sysctls for host in network.hosts})
        selftest.check(network.net, run)
        where = ["-h", network.addresses["s1"], "-U", "postgres"]
        checked(network.client, "pgbench", *where, "-p", str(PLAIN_PORT), "-i", "-q", "postgres")
        for script in SCRIPTS:
            for protocol in PROTOCOLS:
                words = [*where, "-n", "-c", "1", "-b", script, "-M", protocol, "-t", str(setting.transactions)]
                log = run.path(f"{script}-{protocol}")
                found[f"{script} {protocol}"] = _compare(network, words, setting.pairs, log)
                said = ", ".join(f"{name} {value:.3f}" for name, value in found[f"{script} {protocol}"].items())
                console.print(f"{script} {protocol}: {said}", soft_wrap=True, highlight=False)
    worst = max(figures["ratio"] for figures in found.values())
    reason = f"with M-TCP a transaction takes at most {worst:.3f} times as long, allowed are {BAR}"
    word = "succeeded" if worst <= BAR else "failed"
    figures = {"schema_version": 1, "verdict": word, "reason": reason, "latency": found}
    run.metadata["facts"] = {"setting": asdict(setting)}
    run.path("summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    run.finish("succeeded" if worst <= BAR else "failed", reason)
    return figures


def _compare(network: Running, words: list[str], pairs: int, log: Path) -> dict[str, float]:
    """Medians: ms with M-TCP and without, and of the pairs' ratios, with its 95 % interval.

    `log`: where pgbench may write what each took.
    """
    times: dict[int, list[float]] = {PORT: [], PLAIN_PORT: []}
    for pair in range(pairs):
        # Who is first changes, too.
        for port in (PORT, PLAIN_PORT) if pair % 2 else (PLAIN_PORT, PORT):
            prefix = log.with_name(f"{log.name}-{port}-{pair}")
            checked(network.client, "pgbench", *words, "-p", str(port), "-l", f"--log-prefix={prefix}", "postgres")
            [written] = prefix.parent.glob(f"{prefix.name}.*")
            took = [int(line.split()[TOOK]) / 1e3 for line in written.read_text().splitlines()]
            times[port].append(statistics.median(took))
            written.unlink()
    ratios = sorted(ours / plain for ours, plain in zip(times[PORT], times[PLAIN_PORT], strict=True))
    # Between which of them the median lies is binomial, whatever their distribution.
    outside = max(0, int((pairs - NORMAL * math.sqrt(pairs)) / 2))
    return {
        "mtcp_ms": statistics.median(times[PORT]),
        "plain_ms": statistics.median(times[PLAIN_PORT]),
        "ratio": statistics.median(ratios),
        "ratio_from": ratios[outside],
        "ratio_to": ratios[-1 - outside],
    }
