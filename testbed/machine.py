"""The machine that a run took place on: versions, clocks, load."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

from testbed import database

PACKAGES = ("mininet", "scapy", "pandas", "numpy", "scipy", "pyarrow", "seaborn", "h11", "aioquic", "psycopg")
TOOLS = {
    "mnexec": ["mnexec", "-v"],
    "iproute2": ["ip", "-V"],
    "tcpdump": ["tcpdump", "--version"],
    "curl": ["curl", "--version"],
    "iperf3": ["iperf3", "--version"],
    "ethtool": ["ethtool", "--version"],
    "nginx": ["/usr/sbin/nginx", "-v"],
    "wget": ["wget", "--version"],
    "ffmpeg": ["ffmpeg", "-version"],
    "postgresql": [database.find("postgres") or "postgres", "--version"],
}


def versions() -> dict[str, str]:
    """Versions of kernel, Python, packages and tools by name; what is absent is missing."""
    found = {"kernel": platform.release(), "machine": platform.machine(), "python": platform.python_version()}
    for package in ("mtcp-testbed", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    for tool, command in TOOLS.items():
        said = _output(command)
        if said:
            found[tool] = said.splitlines()[0]
    return found


def git_revision() -> dict[str, str | bool]:
    """Commit of the code that runs, and whether files differ from it; empty outside a git checkout."""
    git = ["git", "-c", "safe.directory=*", "-C", str(Path(__file__).parent)]
    commit = _output([*git, "rev-parse", "HEAD"])
    if not commit:
        return {}
    return {
        "commit": commit,
        "modified": bool(_output([*git, "status", "--porcelain", "--untracked-files=no"])),
    }


def realtime_minus_monotonic_ns() -> int:
    """What to add to CLOCK_MONOTONIC to get wall-clock time (that of captures), in ns; right to some us."""
    offsets = []
    for _ in range(16):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        offsets.append((after - before, wall - (before + after) // 2))
    return min(offsets)[1]  # of the attempt that nothing interrupted


class Load:
    """How busy the machine is between construction and `since_start`."""

    def __init__(self) -> None:
        self._start = ticks()
        self._average = os.getloadavg()[0]

    def since_start(self) -> dict[str, float]:
        """Shares of all cores' time that were `busy` and `stolen` by a hypervisor, load averages, cores."""
        spent = [now - then for now, then in zip(ticks(), self._start, strict=True)]
        total = sum(spent) or 1
        idle, steal = spent[3] + spent[4], spent[7]
        return {
            "cores": os.cpu_count() or 1,
            "busy": round(1 - idle / total, 4),
            "stolen": round(steal / total, 4),
            "load_average_before": self._average,
            "load_average_after": os.getloadavg()[0],
        }


def ticks() -> list[int]:
    """What all processors have spent so far, in ticks: user nice system idle iowait irq softirq steal."""
    return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _output(command: list[str]) -> str:
    """What `command` prints, "" if it cannot be run."""
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""
