"""Control groups: a directory per sandbox, and one per host under it for BPF programs to hang on.

What a sandbox does is in version 2, of which only the hierarchy is used here, no controller. Where version 1 has the
controllers (testbed.cpu), a sandbox may have directories of the same name there: they go with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from testbed.errors import TestbedError

PREFIX = "mtcp-testbed-"


class CgroupError(TestbedError):
    """Cgroup v2 cannot be used; the message says what to do."""


def mount_point() -> Path:
    """Where cgroup v2 is mounted on this machine; CgroupError if it is not."""
    for path in _mounted("cgroup2"):
        return path
    raise CgroupError(
        "cgroup v2 is not mounted writable: mkdir -p /sys/fs/cgroup/unified && "
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified (in a container: start it with --privileged)"
    )


def v1_mount_point(controller: str) -> Path | None:
    """Where version 1 has `controller` ("cpu"); None where it has not."""
    return next((path for path in _mounted("cgroup", controller)), None)


def make(parent: Path, name: str) -> Path:
    """Create the control group `name` under `parent` and return it; CgroupError if that is refused."""
    path = parent / name
    try:
        path.mkdir()
    except OSError as error:
        raise CgroupError(f"cannot create the control group {path}: {error.strerror}") from None
    return path


def hold(path: Path) -> int:
    """Keep `remove_stale` away from the group `path` as long as the descriptor returned is open in some process.

    OSError if the group has been removed before that.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        path.stat()
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def remove(path: Path, *more: Path, timeout: float = 10.0) -> bool:
    """Kill what runs in the group `path` and those under it, and remove them; False after `timeout` s.

    `more`: groups of version 1 that the same processes are in.
    """
    deadline = time.monotonic() + timeout
    places = [*_places(path), *more]
    while any(place.exists() for place in places):
        # A process may have come in since the last round: kill again every time.
        with contextlib.suppress(OSError):
            (path / "cgroup.kill").write_text("1")
        _remove_empty(*places)
        if any(place.exists() for place in places):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
    return True


def remove_stale(parent: Path) -> list[Path]:
    """Remove and return the groups of sandboxes under `parent`, and of version 1, whose processes were all killed."""
    removed = []
    for name in {path.name for root in (parent, *_mounted("cgroup")) for path in root.glob(f"{PREFIX}*")}:
        places = [place for place in _places(parent / name) if place.exists()]
        with _abandoned(parent / name) as abandoned:
            if abandoned:
                _remove_empty(*places)
                removed += places
    return sorted(path for path in removed if not path.exists())


@contextlib.contextmanager
def _abandoned(path: Path) -> Iterator[bool]:
    """Whether no process is in the group `path` and none holds it, or will before the end of the context."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        yield isinstance(error, FileNotFoundError)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        empty = "populated 0" in (path / "cgroup.events").read_text()
    except OSError:
        empty = False
    try:
        yield empty
    finally:
        os.close(descriptor)


def _places(path: Path) -> list[Path]:
    """The group `path` of version 2, and where those of the same sandbox in version 1 are, or would be."""
    return [path, *(root / path.name for root in _mounted("cgroup") if path.name.startswith(PREFIX))]


def _mounted(kind: str, option: str = "rw") -> list[Path]:
    """Where hierarchies of `kind` (cgroup, cgroup2) are mounted writable and with `option`."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, this, options, *_ = line.split(" ")
        if this == kind and {"rw", option} <= set(options.split(",")):
            found.append(Path(path.encode().decode("unicode_escape")))
    return found


def _remove_empty(*paths: Path) -> None:
    """Remove the groups `paths` and those under them, deepest first, as far as they are empty."""
    for path in paths:
        with contextlib.suppress(OSError):
            _remove_empty(*(child for child in path.iterdir() if child.is_dir()))
        with contextlib.suppress(OSError):
            path.rmdir()
