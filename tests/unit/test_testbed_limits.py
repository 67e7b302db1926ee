"""Limits of hosts, on directories that look like control groups of either version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from testbed import controllers
from testbed.cgroups import CgroupError
from testbed.cpu import CpuError, Quota, microseconds
from testbed.memory import Memory, MemoryLimitError

CORES = os.cpu_count() or 1


def group(directory: Path, **files: str) -> Path:
    for name, content in files.items():
        directory.joinpath(name.replace("__", ".")).write_text(content)
    return directory


@pytest.mark.parametrize(
    ("cores", "period", "expected"),
    [
        (0.25, 0.1, (25_000, 100_000)),
        (0.1, 0.02, (2_000, 20_000)),
        (1.0, 0.02, (20_000, 20_000)),
        (None, 0.02, (None, 20_000)),
        (0.01, 0.02, (1_000, 100_000)),  # no quota is below 1 ms
        (0.001, 0.02, (1_000, 1_000_000)),
    ],
)
def test_quota_in_microseconds(cores: float | None, period: float, expected: tuple[int | None, int]) -> None:
    assert microseconds(cores, period) == expected


@pytest.mark.parametrize(("cores", "period"), [(0, 0.1), (-1, 0.1), (0.0009, 0.1), (CORES + 0.1, 0.1), (0.5, 2)])
def test_what_cannot_be_had_is_an_error(cores: float, period: float) -> None:
    with pytest.raises(CpuError, match="is not between"):
        microseconds(cores, period)


def test_a_quota_of_version_2(tmp_path: Path) -> None:
    quota = Quota(group(tmp_path, cpu__max="max 100000\n"))
    assert quota.cores is None
    quota.set(0.25, 0.1)
    assert (tmp_path / "cpu.max").read_text() == "25000 100000"
    assert quota.cores == 0.25
    quota.set(None)
    assert (tmp_path / "cpu.max").read_text() == "max 20000"
    assert quota.cores is None


def test_a_quota_of_version_1(tmp_path: Path) -> None:
    quota = Quota(group(tmp_path, cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n"))
    assert quota.cores is None
    quota.set(0.5)
    assert (tmp_path / "cpu.cfs_quota_us").read_text() == "10000"
    assert (tmp_path / "cpu.cfs_period_us").read_text() == "20000"
    assert quota.cores == 0.5
    quota.set(None)
    assert (tmp_path / "cpu.cfs_quota_us").read_text() == "-1"
    assert quota.cores is None


def test_memory_of_both_versions(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
    v1 = Memory(group(tmp_path / "v1", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="1048576"))
    v2 = Memory(group(tmp_path / "v2", memory__max="max", memory__current="1048576"))
    for memory in (v1, v2):
        assert (memory.limit, memory.used) == (None, 1)
        memory.set(100)
        assert memory.limit == 100
        with pytest.raises(MemoryLimitError):
            memory.set(0)
    v1.set(None)
    v2.set(None)
    assert (tmp_path / "v1/memory.limit_in_bytes").read_text() == "-1"
    assert (tmp_path / "v2/memory.max").read_text() == "max"


def test_a_controller_is_enabled_once_and_only_where_it_is(tmp_path: Path) -> None:
    root = group(tmp_path, cgroup__controllers="cpuset cpu memory\n", cgroup__subtree_control="memory\n")
    controllers.enable(root, "memory")
    assert (root / "cgroup.subtree_control").read_text() == "memory\n"
    controllers.enable(root, "cpu")
    assert (root / "cgroup.subtree_control").read_text() == "+cpu"
    with pytest.raises(CgroupError, match=r"no io controller in .*: take a kernel that has it"):
        controllers.enable(root, "io")


def test_a_refused_quota_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").mkdir()
    with pytest.raises(CpuError, match=r"0\.5 cores is refused") as caught:
        Quota(tmp_path).set(0.5)
    assert len(str(caught.value).splitlines()) == 1
