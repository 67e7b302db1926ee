"""How fast nginx is through the sidecar: downloads over an unshaped link, in turn with others from nginx directly.

    python -m experiments.bench_sidecar [--size BYTES] [--times N]

nginx and sidecar have a processor each, by affinity. Prints a line for each way: the median of the downloads, and the
CPU time that nginx and sidecar take for a gigabyte: where there is no third processor for the client, the wall clock
shows what three programs make of two, and only the CPU time says what each could do alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

from testbed import nginx, sandbox
from testbed.processes import Program, checked
from topologies.two_servers import ADDRESSES, Running, running

PORT = 8080
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(program: Program) -> float:
    """What the program has used so far."""
    fields = Path(f"/proc/{program.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def download(network: Running, port: int) -> float:
    """Bytes per second of a curl."""
    url = f"http://{ADDRESSES['s1']}:{port}/big"
    return float(checked(network.client, "curl", "-sS", "--fail", "-o", "/dev/null", "-w", "%{speed_download}", url))


def bench(network: Running, size: int, times: int) -> None:
    s1, logs = network.s1, network.logs
    both = f"*:{nginx.UPSTREAM_PORT}"
    server = nginx.start(s1, sandbox.RUN / "nginx", network.directory, logs / "nginx.log", listen=both)
    sidecar = nginx.sidecar(s1, PORT, logs / "sidecar.log")
    programs = {"nginx": server, "sidecar": sidecar}
    for processor, program in enumerate(programs.values()):
        os.sched_setaffinity(program.process.pid, {processor % (os.cpu_count() or 1)})
    ways = {"nginx": nginx.UPSTREAM_PORT, "sidecar": PORT}
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    used = {way: dict.fromkeys(programs, 0.0) for way in ways}
    for number in range(times + 1):
        for way, port in ways.items():
            before = {name: cpu_seconds(program) for name, program in programs.items()}
            speed = download(network, port)
            if number:  # the first is to warm up
                speeds[way].append(speed)
                for name, program in programs.items():
                    used[way][name] += (cpu_seconds(program) - before[name]) / (times * size / 1e9)
    for way in ways:
        costs = ", ".join(f"{name} {seconds:.2f}" for name, seconds in used[way].items())
        print(f"{way:8} {statistics.median(speeds[way]) / 1e6:6.0f} MB/s, CPU seconds per GB: {costs}")
    ratio = statistics.median(speeds["sidecar"]) / statistics.median(speeds["nginx"])
    print(f"through the sidecar {ratio:.0%} of nginx directly")
    for program in programs.values():
        program.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=500_000_000, metavar="BYTES")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    sandbox.enter()
    with running(bw=None, big=options.size) as network:
        bench(network, options.size, options.times)
    return 0


if __name__ == "__main__":
    sys.exit(main())
