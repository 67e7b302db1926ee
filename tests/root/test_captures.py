"""Captures keep every packet: in several files, at several hosts."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import capture
from testbed import sandbox
from testbed.capture import Capture, capturing, drops, files
from testbed.processes import CommandError, checked
from topologies.two_servers import Running, running

pytestmark = pytest.mark.sandbox(shared=True)
PINGS, SIZE = 2500, 1400


@pytest.fixture(scope="module")
def network() -> Iterator[Running | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    with running(agents=False, big=10_000) as network:
        yield network


def packets(path: Path) -> int:
    return len(capture.Records.open(path).starts)


def test_no_packet_is_lost_between_two_files(network: Running, tmp_path: Path) -> None:
    path = tmp_path / "client.pcap"
    with Capture(network.client, path, filter="icmp", snaplen=65535, rotate=1) as whole:
        checked(network.client, "ping", "-q", "-f", "-c", str(PINGS), "-s", str(SIZE), "10.0.0.1")
    assert whole.stats == (2 * PINGS, 2 * PINGS, 0)
    written = files(path)
    assert written == capture.files(path)
    assert len(written) == -(-(2 * PINGS * (16 + 14 + 28 + SIZE)) // 1_000_000)
    assert sum(map(packets, written)) == 2 * PINGS
    with Capture(network.client, path, filter="icmp"):
        checked(network.client, "ping", "-c1", "10.0.0.1")
    assert files(path) == [path], "files of an earlier capture are left"
    assert packets(path) == 2


def test_what_came_before_the_filter_is_no_loss(network: Running, tmp_path: Path) -> None:
    """libpcap's socket sees every packet before it has its filter, and throws those away that it has counted."""
    flood = network.client.popen(["ping", "-q", "-f", "-s", "10", "10.0.0.1"])
    try:
        with Capture(network.client, tmp_path / "x.pcap", filter="tcp") as nothing:
            pass
    finally:
        flood.kill()
    assert nothing.stats == (0, 0, 0)


def test_several_hosts_at_once(network: Running, tmp_path: Path) -> None:
    with capturing(network.hosts, tmp_path, "x-", {"s1": "icmp"}, snaplen=80) as captures:
        assert list(captures) == ["client", "s1", "s2"]
        pids = {str(one._program.process.pid) for one in captures.values()}
        groups = {pid for host in network.hosts for pid in (host.cgroup / "cgroup.procs").read_text().split()}
        assert not pids & groups, "a capture is a load of its host"
        checked(network.client, "ping", "-q", "-f", "-c", "20", "10.0.0.1")
    assert drops(captures) == {"client": 0, "s1": 0, "s2": 0}
    assert [packets(tmp_path / f"x-{host}.pcap") for host in captures] == [0, 40, 0]


def test_none_is_left_when_one_cannot_start(network: Running, tmp_path: Path) -> None:
    with (
        pytest.raises(CommandError, match="syntax error"),
        capturing(network.hosts, tmp_path, "", {"s2": "nonsense"}),
    ):
        pytest.fail("it has started")
    assert not subprocess.run(["pgrep", "tcpdump"], capture_output=True).stdout


def test_one_that_dies_is_told_and_the_others_end(network: Running, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="s1 has died"), capturing(network.hosts, tmp_path) as captures:
        os.kill(captures["s1"]._program.process.pid, 9)
    assert all(one._program.process.poll() is not None for one in captures.values())
    assert drops(captures) == {"client": 0, "s2": 0}
