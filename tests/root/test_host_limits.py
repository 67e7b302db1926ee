"""A host gets no more of the machine than it may have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mininet.topo import Topo

from testbed import cpu, memory, sandbox
from testbed.controllers import directories
from testbed.cpu import CpuError
from testbed.generators import Generator
from testbed.network import Network
from testbed.nodes import MtcpHost
from testbed.processes import CommandError, checked

pytestmark = pytest.mark.sandbox(shared=True)

QUOTA = 0.05
"""Cores: little, so that even a busy machine gives a host without quota much more."""


@pytest.fixture(scope="module")
def host() -> Iterator[MtcpHost | None]:
    if not sandbox.inside():
        yield None
        return
    net = Network(Topo(), build=False)
    net.addHost("limited", sysctls={"net.ipv4.tcp_ecn": "1"})
    yield net["limited"]
    net.stop()


def share(host: MtcpHost, enough: Callable[[float], bool]) -> float:
    """Cores that the host uses: from now until what is measured is `enough`, or after 10 s."""
    begun, before = time.monotonic(), cpu.used(host)
    while True:
        time.sleep(0.3)
        cores = (cpu.used(host) - before) / (time.monotonic() - begun)
        if enough(cores) or time.monotonic() - begun > 10:
            return cores


def test_a_quota_covers_what_runs_already_and_what_starts_later(host: MtcpHost, tmp_path: Path) -> None:
    burners = Generator(host, "testbed.load", "burn", "--processes", 2, "--seconds", 120, log=tmp_path / "log")
    assert share(host, lambda cores: cores > 2 * QUOTA) > 2 * QUOTA, "without a quota they get more than it will be"
    cpu.set_cpu(host, QUOTA)
    assert host.limits["cpu_cores"] == QUOTA
    periods, waited = cpu.throttled(host)
    # Only too much is wrong: a busy machine gives less.
    assert share(host, lambda cores: cores < 1.3 * QUOTA) < 1.3 * QUOTA
    later = host.popen(["sh", "-c", "while :; do :; done"])
    assert share(host, lambda cores: cores < 1.3 * QUOTA) < 1.3 * QUOTA
    now, now_waited = cpu.throttled(host)
    assert now > periods and now_waited > waited
    cpu.set_cpu(host, None)
    assert host.limits["cpu_cores"] is None
    assert share(host, lambda cores: cores > 2 * QUOTA) > 2 * QUOTA
    later.kill()
    later.wait()
    report = burners.finish()
    assert 0 < report["cores"] <= report["asked_cores"] == 2


def test_limits_are_parameters_of_a_host_and_noted(host: MtcpHost) -> None:
    other = MtcpHost("other", cpu_cores=0.5, memory_mib=300)
    try:
        assert other.limits == {"cpu_cores": 0.5, "memory_mib": 300}
        for group in (checked(other, "cat", "/proc/self/cgroup"), other.cmd("cat /proc/self/cgroup")):
            # Version 1, where there is one, has it by the names of sandbox and host.
            assert all(line.endswith("other") for line in group.splitlines() if "cpu:" in line or "memory:" in line)
        assert all((group / "cgroup.procs").read_text().split() == [str(other.pid)] for group in directories("other"))
    finally:
        other.terminate()


def test_what_a_host_cannot_have_is_an_error(host: MtcpHost) -> None:
    with pytest.raises(CpuError, match="10000 cores"):
        cpu.set_cpu(host, 10_000)
    with pytest.raises(CommandError, match="no_such"):
        host.set_sysctls({"net.ipv4.no_such": "1"})


def test_a_hog_beyond_the_memory_of_its_host_is_killed_and_nothing_else(host: MtcpHost, tmp_path: Path) -> None:
    memory.set_memory(host, 120)
    within = Generator(host, "testbed.load", "memory", "--mib", 60, "--seconds", 30, log=tmp_path / "within")
    assert within.finish()["mib"] == pytest.approx(60, rel=0.05)
    with pytest.raises(CommandError, match="code -9"):
        Generator(host, "testbed.load", "memory", "--mib", 200, "--seconds", 30, log=tmp_path / "beyond")
    assert host.cmd("echo alive").strip() == "alive"
    memory.set_memory(host, None)
    assert host.limits["memory_mib"] is None


def test_sysctls_of_one_host(host: MtcpHost) -> None:
    assert host.sysctls["net.ipv4.tcp_ecn"] == "1"
    buffers = {"net.ipv4.tcp_rmem": "4096 65536 1048576", "net.ipv4.tcp_congestion_control": "reno"}
    host.set_sysctls(buffers)
    assert {name: host.sysctls[name] for name in buffers} == buffers
