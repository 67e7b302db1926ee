"""A host's share of the machine: the control group that has a controller, whichever of versions 1 and 2 it is in.

Version 2: that is the host's own group, and the controller is enabled on the way down to it. Version 1: a directory
sandbox/host in the controller's hierarchy, made when it is first needed, which every process of the host then joins
(MtcpHost._popen). Not before: where the kernel has CONFIG_RT_GROUP_SCHED, no process in a cpu group of version 1 can be
given real-time priority. Both go with the sandbox (testbed.cgroups).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from testbed import cgroups, sandbox
from testbed.cgroups import CgroupError

CONTROLLERS = ("cpu", "memory")


def directories(name: str) -> list[Path]:
    """Where version 1 has, or would have, the groups of the host `name`."""
    roots = {cgroups.v1_mount_point(controller): None for controller in CONTROLLERS}
    return [root / sandbox.name() / name for root in roots if root is not None]


def group(host: Any, controller: str) -> Path:
    """The group of the MtcpHost `host` that has `controller`; all its processes are in it, now and later.

    CgroupError, which says what to do, where the kernel or the container has no such controller.
    """
    root = cgroups.v1_mount_point(controller)
    if root is None:
        for parent in (cgroups.mount_point(), sandbox.CGROUP):
            enable(parent, controller)
        return Path(host.cgroup)
    path = root / sandbox.name() / str(host.name)
    try:
        # In this order: who starts now joins by itself once the directory is there.
        path.mkdir(parents=True, exist_ok=True)
        _gather(host.cgroup, path)
    except OSError as error:
        raise CgroupError(f"{host}: cannot use the {controller} controller in {path}: {error.strerror}") from None
    return path


def enable(parent: Path, controller: str) -> None:
    """Let the groups under `parent`, of version 2, have `controller`; CgroupError where that is refused."""
    if controller in (parent / "cgroup.subtree_control").read_text().split():
        return
    if controller not in (parent / "cgroup.controllers").read_text().split():
        raise CgroupError(
            f"no {controller} controller in {parent}: take a kernel that has it, booted without "
            f"cgroup_disable={controller} (in a container: start it with --privileged --cgroupns=host)"
        )
    try:
        (parent / "cgroup.subtree_control").write_text(f"+{controller}")
    except OSError as error:
        raise CgroupError(
            f"cannot enable the {controller} controller under {parent}: {error.strerror} "
            "(its own processes must be in a group below it: in a container, start with --cgroupns=host)"
        ) from None


def _gather(host: Path, path: Path) -> None:
    """Put all processes of the group `host` and of those under it into `path`, also those they start meanwhile."""
    while outside := _processes(host) - _processes(path):
        for process in outside:
            with contextlib.suppress(ProcessLookupError):
                (path / "cgroup.procs").write_text(process)


def _processes(group: Path) -> set[str]:
    found: set[str] = set()
    for file in group.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            found |= set(file.read_text().split())
    return found
