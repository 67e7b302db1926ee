"""A hog of memory: what it holds it uses, so that the kernel has to find room elsewhere in the host's group."""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from typing import Any

from testbed import generators

_MIB = 1 << 20
_EVERY = 0.5  # seconds


def hog(mib: int, seconds: float) -> dict[str, Any]:
    """Hold and use `mib` MiB; what it held. ValueError beyond LIMITS, OSError where there is no room.

    Where the kernel must kill for want of memory, it takes this process first.
    """
    generators.bounded(mib=mib, seconds=seconds)
    Path("/proc/self/oom_score_adj").write_text("1000")
    before = _resident()
    with mmap.mmap(-1, mib * _MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        until, rounds, first_s = generators.Until(seconds), 0, 0.0
        while not until.over:
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = rounds & 0xFF
            rounds += 1
            if rounds == 1:
                first_s = until.passed
                generators.announce()  # it is held from now on
            wake = time.monotonic() + _EVERY
            while (rest := until.pause(wake - time.monotonic())) > 0:
                time.sleep(rest)
        resident = _resident() - before
        passed = until.passed
    return {
        "asked_mib": mib,
        "mib": round(resident / _MIB, 1),
        "rounds": rounds,
        "filled_s": round(first_s, 3),
        "seconds": round(passed, 3),
    }


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
