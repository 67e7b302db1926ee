"""Control groups, version 2: a directory per sandbox, and one per host under it for BPF programs to hang on.

Only the hierarchy is used here, no controller, so it does not matter which of v1 and v2 has them.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from testbed.errors import TestbedError

PREFIX = "mtcp-testbed-"
_STALE_AFTER = 10.0  # seconds; a sandbox that is being made stays empty for some milliseconds


class CgroupError(TestbedError):
    """Cgroup v2 cannot be used; the message says what to do."""


def mount_point() -> Path:
    """Where cgroup v2 is mounted on this machine; CgroupError if it is not."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, options, *_ = line.split(" ")
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(path.encode().decode("unicode_escape"))
    raise CgroupError(
        "cgroup v2 is not mounted writable: mkdir -p /sys/fs/cgroup/unified && "
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified (in a container: start it with --privileged)"
    )


def make(parent: Path, name: str) -> Path:
    """Create the control group `name` under `parent` and return it; CgroupError if that is refused."""
    path = parent / name
    try:
        path.mkdir()
    except OSError as error:
        raise CgroupError(f"cannot create the control group {path}: {error.strerror}") from None
    return path


def remove(path: Path, timeout: float = 10.0) -> bool:
    """Kill what runs in the group `path` and those under it, and remove them; False after `timeout` s."""
    deadline = time.monotonic() + timeout
    while path.exists():
        # A process may have come in since the last round: kill again every time.
        with contextlib.suppress(OSError):
            (path / "cgroup.kill").write_text("1")
        _remove_empty(path)
        if path.exists():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
    return True


def remove_stale(parent: Path) -> list[Path]:
    """Remove and return the groups of sandboxes under `parent` whose processes were all killed."""
    removed = []
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            populated = "populated 1" in (path / "cgroup.events").read_text()
            if not populated and time.time() - path.stat().st_mtime > _STALE_AFTER:
                _remove_empty(path)
                removed.append(path)
    return [path for path in removed if not path.exists()]


def _remove_empty(path: Path) -> None:
    """Remove the group `path` and those under it, deepest first, as far as they are empty."""
    for child in [*path.iterdir()] if path.is_dir() else []:
        if child.is_dir():
            _remove_empty(child)
    with contextlib.suppress(OSError):
        path.rmdir()
