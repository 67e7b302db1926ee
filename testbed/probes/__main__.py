"""Sample what the kernel knows of a host, many times a second. Runs in the host's network namespace.

    python -m testbed.probes --hz 50 --out s1.csv --host s1 --tcp 80 --qdisc s1-eth0 --cpu /run/mtcp/cgroup/s1 --netstat

Says "sampling" after the first sample, and ends on SIGTERM or SIGINT with a last one. A sample has one time for all of
its rows; a row is written when its value is not what it was. Sample k is due at start + k/hz: one that is late does not
delay the next; one that would come when the next is due already is left out, and `missed` counts it.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.probes import COLUMNS
from testbed.probes.sources import Cpu, Netstat, Qdisc, Source, Tcp

_ENDING = {signal.SIGTERM, signal.SIGINT}


class Changes:
    """Rows for what has changed since the sample before."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._last: dict[tuple[str, str], Mapping[str, float]] = {}

    def rows(self, now: int, found: Mapping[tuple[str, str], Mapping[str, float]]) -> list[str]:
        """`found`: metrics by (probe, subject), all that there are. One that is no more has a row `gone`."""
        rows = []
        for key, metrics in found.items():
            last = self._last.get(key, {})
            start = f"{now},{self._host},{key[0]},{key[1]},"
            rows += [f"{start}{name},{value}\n" for name, value in metrics.items() if last.get(name) != value]
        rows += [
            f"{now},{self._host},{probe},{subject},gone,1\n" for probe, subject in self._last.keys() - found.keys()
        ]
        self._last = dict(found)
        return rows


def sample(sources: Sequence[Source], host: str, path: Path, hz: float) -> None:
    """Sample until told to end; the rows are appended to the CSV file at `path`, all of a sample in one piece."""
    changes, period = Changes(host), round(1e9 / hz)
    with path.open("wb", buffering=0) as file:
        file.write((",".join(COLUMNS) + "\n").encode())
        start, number, missed, ending = time.monotonic_ns(), 0, 0, False
        while not ending:
            due = start + number * period
            ending = signal.sigtimedwait(_ENDING, max(0, due - time.monotonic_ns()) / 1e9) is not None
            now = time.monotonic_ns()
            found = {(source.name, subject): metrics for source in sources for subject, metrics in source.read()}
            took = time.monotonic_ns() - now
            rows = changes.rows(now, found)
            sampler = {"late_us": max(0, now - due) // 1000, "took_us": took // 1000, "missed": missed}
            rows += [f"{now},{host},sampler,,{name},{value}\n" for name, value in sampler.items()]
            file.write("".join(rows).encode())
            if number == 0:
                print("sampling", flush=True)
            following = max(number + 1, (time.monotonic_ns() - start) // period)
            missed += following - number - 1
            number = following


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hz", type=float, default=50, help="samples a second (50)")
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    parser.add_argument("--host", required=True, help="its name in the rows")
    parser.add_argument(
        "--tcp", type=int, nargs="*", metavar="PORT", help="connections and listeners (with these ports)"
    )
    parser.add_argument("--qdisc", nargs="+", default=[], metavar="INTERFACE[=NAME]", help="their queues")
    parser.add_argument("--cpu", type=Path, nargs="+", default=[], metavar="DIR", help="control groups")
    parser.add_argument("--netstat", action="store_true", help="counters of the protocols")
    options = parser.parse_args()
    if not 0 < options.hz <= 1000:
        parser.error("--hz is from 0 to 1000")
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        sources: list[Source] = []
        sources += [] if options.tcp is None else [Tcp(options.tcp)]
        sources += [Qdisc(options.qdisc)] if options.qdisc else []
        sources += [Cpu(options.cpu)] if options.cpu else []
        sources += [Netstat()] if options.netstat else []
        if not sources:
            parser.error("nothing to sample")
        sample(sources, options.host, options.out, options.hz)
    except OSError as error:
        print(f"probes: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
