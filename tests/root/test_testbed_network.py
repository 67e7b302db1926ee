"""Hosts, switches, links and captures."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.capture import Capture
from testbed.links import EmulatedLink, LinkError
from testbed.loss import Loss
from testbed.processes import CommandError, Program, checked
from topologies.two_servers import Running, running

pytestmark = pytest.mark.sandbox


@pytest.fixture
def network() -> Iterator[Running | None]:
    # Fixtures are also made outside the sandbox, where the test does not run.
    if not sandbox.inside():
        yield None
        return
    with running(agents=False, big=10_000) as network:
        yield network


def mbits(network: Running, *options: str) -> float:
    server = Program(network.s1, ["iperf3", "-s", "-1", "--forceflush"], sandbox.RUN / "iperf3.log")
    server.wait_for("Server listening")
    report = json.loads(checked(network.client, "iperf3", "-c", "10.0.0.1", "-J", "-t", "1.5", *options))
    server.stop()
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


def test_all_reach_each_other_by_name(network: Running) -> None:
    for name in ("s1", "s2"):
        checked(network.client, "ping", "-c1", "-W2", name)
    checked(network.s1, "ping", "-c1", "-W2", "10.1.0.2")


def test_every_process_is_in_the_cgroup_of_its_host(network: Running) -> None:
    expected = "0::/s1"
    assert expected in network.s1.cmd("cat /proc/self/cgroup")
    assert expected in checked(network.s1, "cat", "/proc/self/cgroup")
    assert expected in checked(network.s1, "sh", "-c", "setsid cat /proc/self/cgroup & wait")
    assert network.s1.cgroup.joinpath("cgroup.procs").read_text().split() == [str(network.s1.pid)]


def test_sysctls_are_set_per_host_and_noted(network: Running) -> None:
    assert network.client.sysctls["net.ipv4.tcp_congestion_control"] == "cubic"
    network.client.set_sysctls({"net.ipv4.tcp_congestion_control": "reno"})
    assert checked(network.client, "sysctl", "-n", "net.ipv4.tcp_congestion_control") == "reno\n"
    assert checked(network.s1, "sysctl", "-n", "net.ipv4.tcp_congestion_control") == "cubic\n"
    assert network.client.sysctls["net.ipv4.tcp_congestion_control"] == "reno"
    with pytest.raises(CommandError, match="no-such-control"):
        network.client.set_sysctls({"net.ipv4.tcp_congestion_control": "no-such-control"})


@pytest.mark.parametrize("direction", [[], ["-R"]])
def test_bandwidth_both_ways_and_live(network: Running, direction: list[str]) -> None:
    unshaped = mbits(network, *direction)
    network.set_bw(20)
    assert mbits(network, *direction) == pytest.approx(19.1, rel=0.06)
    network.set_bw(100)
    assert mbits(network, *direction) == pytest.approx(95.5, rel=0.06)
    network.set_bw(None)
    assert mbits(network, *direction) > max(500, unshaped / 4)


def test_unshaped_links_are_left_without_traces(network: Running) -> None:
    def shaped() -> int:
        return network.net._emulator.middle.output("tc", "qdisc").count("rate 10Mbit")

    network.set_bw(10)
    assert shaped() == 6
    assert "tbf" not in subprocess.check_output(["tc", "qdisc"], text=True)  # nothing on the switch
    network.set_bw(None)
    assert shaped() == 0


def test_a_sender_does_not_feel_how_full_the_bottleneck_is(network: Running) -> None:
    network.set_bw(5)
    server = Program(network.s1, ["iperf3", "-s", "-1", "--forceflush"], sandbox.RUN / "iperf3.log")
    server.wait_for("Server listening")
    report = json.loads(checked(network.client, "iperf3", "-c", "10.0.0.1", "-J", "-t", "1", "-u", "-b", "30M"))
    server.stop()
    assert report["end"]["sum"]["bits_per_second"] > 20e6
    assert report["end"]["sum"]["lost_percent"] > 50


def test_a_link_refuses_what_it_cannot_emulate(network: Running) -> None:
    switch = network.net["sw1"]
    refused = {
        "reorder": {"reorder": 1},
        "latency_ms": {"params1": {"latency_ms": 5}},
        "5 parsecs is not a time": {"delay": "5 parsecs"},
        "a queue needs a bandwidth": {"queue": 10},
        "a jitter of 6 ms is more than the delay": {"delay": 5, "jitter": 6},
        "no emulation is called dummynet": {"delay": 5, "emulation": "dummynet"},
    }
    for message, params in refused.items():
        with pytest.raises(LinkError, match=message):
            EmulatedLink(network.client, switch, **params)
    assert network.client.intfNames() == ["client-eth0"]
    with pytest.raises(LinkError, match="not a bandwidth"):
        network.set_bw(-1)
    (link,) = network.net.linksBetween(network.s1, switch)
    with pytest.raises(LinkError, match="make it with delay=0"):
        link.set(delay=5)
    (plain,) = network.net.linksBetween(network.s1, network.s2)
    with pytest.raises(LinkError, match="make it with bw=inf or delay=0"):
        plain.set(bw=5)


def test_capture_holds_every_packet(network: Running, tmp_path: Path) -> None:
    with Capture(network.client, tmp_path / "client.pcap", filter="icmp") as capture:
        checked(network.client, "ping", "-c5", "-i0.01", "s1")
    assert capture.stats == (10, 10, 0)
    assert (tmp_path / "client.pcap").stat().st_size == 24 + 10 * (16 + 98)
    assert (tmp_path / "client.pcap").read_bytes()[:4] == b"\x4d\x3c\xb2\xa1"  # nanoseconds


def test_capture_that_cannot_start_says_why(network: Running, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such device"):
        Capture(network.client, tmp_path / "x.pcap", interface="nothing0")


def test_capture_that_died_is_an_error(network: Running, tmp_path: Path) -> None:
    capture = Capture(network.client, tmp_path / "x.pcap")
    os.kill(capture._program.process.pid, 9)
    with pytest.raises(CommandError, match="has died"):
        capture.stop()


def test_a_program_that_ends_early_is_an_error(network: Running) -> None:
    program = Program(network.s1, ["sh", "-c", "echo no such file; exit 3"], sandbox.RUN / "x.log")
    start = time.monotonic()
    with pytest.raises(CommandError, match="sh on s1 ended with code 3: no such file"):
        program.wait_for("ready")
    assert time.monotonic() - start < 5


def test_so_many_packets_are_lost_and_captured(network: Running, tmp_path: Path) -> None:
    network.set_bw(50)
    with Loss(network.net, 10.0, tmp_path / "lost.pcap") as loss:
        out, _, _ = network.client.pexec("ping", "-q", "-c", "2000", "-i", "0.001", "10.0.0.1")
    arrived = int(out.partition(" received")[0].rpartition(" ")[2])
    assert 2000 * 0.76 < arrived < 2000 * 0.86, out  # there and back: 81 %
    assert loss.drops == 0
    assert 0.08 < loss.lost / loss.passed < 0.12
    packets = checked(network.client, "tcpdump", "-r", str(tmp_path / "lost.pcap"), "-n")
    assert packets.count("ICMP") == loss.lost >= 2000 - arrived
    out, _, _ = network.client.pexec("ping", "-q", "-c", "200", "-i", "0.001", "10.0.0.1")
    assert " 0% packet loss" in out
