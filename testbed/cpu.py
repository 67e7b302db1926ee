"""How much of the machine's CPU a host may use: an upper limit, in cores, that can change while the host runs.

It is the kernel's CFS bandwidth control: in each period the host's processes may use `cores` times the period of CPU
time, together, on whatever cores; then they all wait for the next period. So a host with a tenth of a core stands
still for up to nine tenths of each: with a short period it is nearer to a slow machine.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from testbed import controllers
from testbed.errors import TestbedError

PERIOD = 0.02
"""Seconds. The kernel's own default, 0.1, would be seen in every latency."""
LEAST = 0.001
"""Seconds of CPU time in a period: the kernel allows no less."""


class CpuError(TestbedError):
    """This is no quota that can be had."""


class Quota:
    """The quota of a control group, of either version."""

    def __init__(self, directory: Path) -> None:
        """`directory`: the group, with the cpu controller."""
        self._max = directory / "cpu.max"
        self._v1_quota, self._v1_period = directory / "cpu.cfs_quota_us", directory / "cpu.cfs_period_us"

    @property
    def cores(self) -> float | None:
        """The limit that is in force; None: none."""
        if self._max.exists():
            quota, period = self._max.read_text().split()
        else:
            quota, period = self._v1_quota.read_text().strip(), self._v1_period.read_text()
        return None if quota in ("max", "-1") else int(quota) / int(period)

    def set(self, cores: float | None, period: float = PERIOD) -> None:
        """Limit the group to `cores` (0.25: a quarter of one core), None: not at all.

        `period`: seconds, 0.001 to 1; where `cores` are too few for it, a longer one is taken. CpuError where that
        is impossible.
        """
        quota_us, period_us = microseconds(cores, period)
        try:
            if self._max.exists():
                self._max.write_text(f"{'max' if quota_us is None else quota_us} {period_us}")
                return
            # Between old and new values there might be one that the kernel refuses.
            self._v1_quota.write_text("-1")
            self._v1_period.write_text(str(period_us))
            self._v1_quota.write_text(str(-1 if quota_us is None else quota_us))
        except OSError as error:
            raise CpuError(f"{self._max.parent}: a quota of {cores} cores is refused: {error.strerror}") from None


def microseconds(cores: float | None, period: float = PERIOD) -> tuple[int | None, int]:
    """Quota (None: no limit) and period of a group that may use `cores`, in us. CpuError for what cannot be had."""
    if not 0.001 <= period <= 1:
        raise CpuError(f"a period of {period:g} s is not between 0.001 and 1 s")
    if cores is None:
        return None, round(period * 1e6)
    most = os.cpu_count() or 1
    if not LEAST <= cores <= most:
        raise CpuError(f"a quota of {cores:g} cores is not between {LEAST:g} and the {most} that this machine has")
    period = min(1.0, max(period, LEAST / cores))
    return round(cores * period * 1e6), round(period * 1e6)


def set_cpu(host: Any, cores: float | None, period: float = PERIOD) -> None:
    """Limit the MtcpHost `host`, at once and with all that runs there, to `cores`; None: as much as there is.

    What is in force is noted in host.limits. CpuError where it is impossible, CgroupError where there is no controller.
    """
    microseconds(cores, period)
    group = controllers.group(host, "cpu")
    for directory in (group.parent, group):
        if (weight := directory / "cpu.shares").exists():
            # Version 1 weighs a group like one process of those outside all groups: like one for each core, then.
            weight.write_text(str(1024 * (os.cpu_count() or 1)))
    quota = Quota(group)
    quota.set(cores, period)
    host.limits["cpu_cores"] = quota.cores


def used(host: Any) -> float:
    """CPU time that all processes of `host`, also those that have ended, have used so far; seconds."""
    return _statistics(host.cgroup)["usage_usec"] / 1e6


def throttled(host: Any) -> tuple[int, int]:
    """How many periods the quota of `host` has had, and in how many of them its processes had to wait."""
    counted = _statistics(controllers.group(host, "cpu"))
    return counted["nr_periods"], counted["nr_throttled"]


def _statistics(group: Path) -> dict[str, int]:
    """cpu.stat, which groups of version 2 have without the controller, too."""
    lines = (line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return {name: int(value) for name, value in lines}
