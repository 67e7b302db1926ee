"""How much memory a host may use. Where it needs more, the kernel reclaims and swaps, and at last kills a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from testbed import controllers
from testbed.errors import TestbedError

_MIB = 1 << 20


class MemoryLimitError(TestbedError):
    """This is no limit that can be had."""


class Memory:
    """The memory of a control group, of either version."""

    def __init__(self, directory: Path) -> None:
        """`directory`: the group, with the memory controller."""
        self._v1 = not (directory / "memory.max").exists()
        self._limit = directory / ("memory.limit_in_bytes" if self._v1 else "memory.max")
        self._used = directory / ("memory.usage_in_bytes" if self._v1 else "memory.current")

    @property
    def limit(self) -> float | None:
        """MiB; None: none (version 1 has a number for that, larger than any memory)."""
        text = self._limit.read_text().strip()
        return None if text == "max" or int(text) >= 1 << 60 else int(text) / _MIB

    @property
    def used(self) -> float:
        """MiB, with the page cache."""
        return int(self._used.read_text()) / _MIB

    def set(self, mib: float | None) -> None:
        """Limit the group to so many MiB, None: not at all. MemoryLimitError when it needs more already."""
        if mib is not None and mib < 1:
            raise MemoryLimitError(f"{mib:g} MiB is no memory for a host")
        value = ("-1" if self._v1 else "max") if mib is None else str(round(mib * _MIB))
        try:
            self._limit.write_text(value)
        except OSError as error:
            raise MemoryLimitError(f"{self._limit.parent}: {mib} MiB is refused: {error.strerror}") from None


def set_memory(host: Any, mib: float | None) -> None:
    """Limit the MtcpHost `host`, with all that runs there, to so many MiB; None: as much as there is.

    What its processes had before is not counted in version 1. What is in force is noted in host.limits.
    MemoryLimitError where it is impossible, CgroupError where there is no controller.
    """
    memory = Memory(controllers.group(host, "memory"))
    memory.set(mib)
    host.limits["memory_mib"] = memory.limit
