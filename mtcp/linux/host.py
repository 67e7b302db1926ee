"""What of this host the agent attaches to when it is not told."""

from __future__ import annotations

import socket
from pathlib import Path

from mtcp.errors import MtcpError


def cgroup2_root() -> Path:
    """Where cgroup v2 is mounted; MtcpError when it is not."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, directory, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(directory)
    raise MtcpError("cgroup v2 is not mounted; mount it: mount -t cgroup2 none /sys/fs/cgroup/unified")


def interfaces() -> list[str]:
    """All of this network namespace's interfaces but the loopback."""
    return [name for _, name in socket.if_nameindex() if name != "lo"]
