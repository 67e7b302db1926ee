"""How long processes wait for a processor: of a control group, and of single processes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

from mtcp.errors import MtcpError


class CpuPressure:
    """Pressure stall information (Documentation/accounting/psi.rst) of a control group of version 2.

    It is there without the cpu controller, and counts the time for which a quota, of either version, lets none run.
    """

    def __init__(self, cgroup: Path, machine: Path = Path("/proc/pressure/cpu")) -> None:
        """Of the whole `machine` if the group has none, as the root may; MtcpError when the kernel has none."""
        for path in (cgroup / "cpu.pressure", machine):
            with contextlib.suppress(OSError):
                self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                os.pread(self._file, 1, 0)
                return
        raise MtcpError(
            "this kernel has no pressure stall information: boot it with psi=1, or take one that has CONFIG_PSI"
        )

    def seconds(self) -> float:
        """In which some process of the group waited for a processor, since its beginning."""
        some = os.pread(self._file, 4096, 0).decode().split("\n", 1)[0]
        return int(some.rpartition("total=")[2]) / 1e6

    def close(self) -> None:
        os.close(self._file)


class RunDelay:
    """The time for which threads waited in run queues, since the last question (run_delay, sched-stats.rst)."""

    def __init__(self) -> None:
        self._last: dict[Path, int] = {}
        self._asked_ns = time.monotonic_ns()

    def share(self, pids: Iterable[int]) -> float | None:
        """Of the thread of these processes that waited longest; None when there is none, or the kernel does not say."""
        now = time.monotonic_ns()
        elapsed, self._asked_ns = max(1, now - self._asked_ns), now
        found: dict[Path, int] = {}
        for pid in pids:
            for path in Path("/proc", str(pid), "task").glob("*/schedstat"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    found[path] = int(path.read_text().split()[1])
        waited = [count - self._last[path] for path, count in found.items() if path in self._last]
        self._last = found
        return min(1.0, max(waited) / elapsed) if waited else None
