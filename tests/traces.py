"""What a sandbox is outside of itself: processes, a control group, namespaces; and whether all of it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from testbed import cgroups


class Traces:
    """Those of the sandbox whose outer process is `outer`; it must be up."""

    def __init__(self, outer: int) -> None:
        self.outer = outer
        self.inner = child(outer, exclude="mtcp-janitor")
        self.janitor = child(outer, only="mtcp-janitor")
        # Others may run sandboxes at the same time: ours is the one that this process is in.
        (path,) = (line[3:] for line in Path(f"/proc/{self.inner}/cgroup").read_text().split() if line[:3] == "0::")
        self.group = cgroups.mount_point() / path.strip("/").split("/")[0]
        assert self.group.name.startswith(cgroups.PREFIX)
        self.namespaces = {Path(f"/proc/{self.inner}/ns/{kind}").readlink() for kind in ("net", "mnt", "pid")}
        self._alive: dict[int, str | None] = {}
        self.look()

    def look(self) -> None:
        """Note the processes there are now, too."""
        self._alive |= {pid: born(pid) for pid in {*self.processes(), self.janitor}}

    def processes(self) -> set[int]:
        """All in the control group."""
        return {int(pid) for file in self.group.rglob("cgroup.procs") for pid in file.read_text().split()}

    def left(self) -> list[str]:
        """Control groups of any version, and processes, hence namespaces (whose numbers are used again at once)."""
        roots = [cgroups.mount_point(), *Path("/sys/fs/cgroup").glob("*")]
        groups = {str(root / self.group.name) for root in roots if (root / self.group.name).exists()}
        alive = [f"process {pid}" for pid, then in self._alive.items() if then is not None and born(pid) == then]
        return [*sorted(groups), *alive]

    def gone(self) -> bool:
        return not self.left()


def child(parent: int, only: str | None = None, exclude: str | None = None) -> int:
    """The child of `parent` whose name is `only`, or is not `exclude`."""
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    names = {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}
    (found,) = (pid for pid, name in names.items() if (only is None or name == only) and name != exclude)
    return found


def born(pid: int) -> str | None:
    """When the process `pid` started: with the pid, its identity. None if it is dead."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]


def eventually(condition: Callable[[], bool], timeout: float = 15.0) -> bool:
    """Whether `condition` comes true in `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
