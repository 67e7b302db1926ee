"""The counters of /proc/net/netstat and /proc/net/snmp."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache


def counters(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    """The groups of a file that has two lines of each: "Group: names" and "Group: values"."""
    lines = text.splitlines()
    for heading, line in zip(lines[::2], lines[1::2], strict=True):
        group, names = _heading(heading)
        yield group, dict(zip(names, map(int, line.split()[1:]), strict=True))


@lru_cache(64)
def _heading(line: str) -> tuple[str, tuple[str, ...]]:
    group, *names = line.split()
    return group.rstrip(":"), tuple(names)
