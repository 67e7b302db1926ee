"""Probes see what happens in the hosts' kernels, from beside them, and what they saw outlives them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import probes
from testbed import cpu, sandbox
from testbed.probes import Bottlenecks, Probe, probing
from testbed.processes import CommandError, Program, checked
from topologies.two_servers import Running, running

pytestmark = pytest.mark.sandbox(shared=True)

BW, BYTES, PORT, FULL_PORT, HZ = 20, 4_000_000, 5201, 7070, 50
NEVER_ACCEPTS = (
    f"import socket, time; s = socket.create_server(('', {FULL_PORT}), backlog=1); "
    "print('listening', flush=True); time.sleep(100)"
)
CONNECTS = (
    "import socket, time\n"
    "all = [socket.socket() for _ in range(8)]\n"
    "for s in all:\n"
    "    s.setblocking(False)\n"
    f"    s.connect_ex(('10.0.0.1', {FULL_PORT}))\n"
    "time.sleep(0.5)\n"
)


@pytest.fixture(scope="module")
def network() -> Iterator[Running | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    with running(agents=False, big=10_000, bw=BW) as network:
        yield network


@pytest.fixture(scope="module")
def samples(network: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pd.DataFrame | None]:
    """Of a transfer from s1 to the client, and of a listener that is asked for more than it takes."""
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("probes")
    server = Program(network.s1, ["iperf3", "-s", "--forceflush"], directory / "iperf3.log")
    server.wait_for("Server listening")
    full = Program(network.s1, [sys.executable, "-c", NEVER_ACCEPTS], directory / "full.log")
    full.wait_for("listening")
    with probing([*network.hosts, Bottlenecks(network.net)], directory, hz=HZ) as running_probes:
        pids = {str(one._program.process.pid) for one in running_probes.values()}
        groups = {pid for host in network.hosts for pid in (host.cgroup / "cgroup.procs").read_text().split()}
        assert not pids & groups, "a probe is a load of its host"
        checked(network.client, "iperf3", "-c", "10.0.0.1", "-R", "-n", str(BYTES))
        checked(network.client, sys.executable, "-c", CONNECTS)
    for program in (server, full):
        program.stop()
    assert [path.name for path in probes.files(directory)] == [
        f"probes-{h}.parquet" for h in ("client", "links", "s1", "s2")
    ]
    yield probes.read(*probes.files(directory))


def test_a_transfer(samples: pd.DataFrame) -> None:
    tcp = probes.table(samples, "tcp", "s1")
    data = tcp.groupby("subject")["bytes_sent"].max().idxmax()
    sender = tcp.loc[data].dropna(subset="bytes_acked")  # a handshake has no TCP_INFO at the server
    assert data.startswith(f"10.0.0.1:{PORT} ")
    assert sender["bytes_acked"].is_monotonic_increasing
    assert sender["bytes_acked"].nunique() > 10
    assert sender["bytes_acked"].max() > BYTES / 2
    assert sender["snd_cwnd"].max() > sender["snd_cwnd"].iloc[0] >= 10
    assert sender["rtt"].max() > 5_000, "the queue's delay"
    receiver = probes.table(samples, "tcp", "client", " ".join(reversed(data.split())))
    assert receiver["bytes_received"].max() > BYTES / 2
    assert samples.loc[samples["subject"] == data, "metric"].eq("gone").sum() == 1


def test_the_bottleneck_fills(samples: pd.DataFrame) -> None:
    queues = probes.table(samples, "qdisc", "links")
    by_direction = queues.groupby("subject").max()
    assert len(by_direction) == 2 * 3, "a queue per direction of three links"
    bottleneck = by_direction["backlog"].idxmax()
    assert bottleneck.startswith("s1-eth0->sw1-eth") and " tbf " in bottleneck
    backlog, waiting = queues.loc[bottleneck, "backlog"], queues.loc[bottleneck, "qlen"]
    assert backlog.max() > 20_000 and backlog.iloc[-1] == 0
    assert 1 < waiting.max() <= backlog.max() // 54, "super-packets count as one"
    assert by_direction.loc[bottleneck, "bytes"] > BYTES


def test_handshakes_and_those_that_fail(samples: pd.DataFrame) -> None:
    def change(host: str, group: str, metric: str) -> float:
        values = probes.table(samples, "netstat", host, group)[metric]
        return float(values.iloc[-1] - values.iloc[0])

    assert change("client", "Tcp", "ActiveOpens") == 2 + 8, "two of iperf3"
    assert 2 < change("s1", "Tcp", "PassiveOpens") < 2 + 8
    assert change("s1", "TcpExt", "ListenOverflows") > 0
    assert change("s1", "TcpExt", "ListenDrops") > 0
    assert change("s2", "Tcp", "PassiveOpens") == 0
    queue = probes.table(samples, "tcp", "s1", f"0.0.0.0:{FULL_PORT} 0.0.0.0:0")
    assert queue["receive_queue"].max() == 2, "one more than the backlog"
    assert queue["send_queue"].eq(1).all()


def test_cpu_time(samples: pd.DataFrame) -> None:
    used = probes.table(samples, "cpu", "s1", "s1")
    assert used["usage_usec"].is_monotonic_increasing
    assert used["usage_usec"].iloc[-1] > used["usage_usec"].iloc[0]
    assert (used["usage_usec"] - used["user_usec"] - used["system_usec"]).abs().max() < 20
    idle = probes.table(samples, "cpu", "s2", "s2")["usage_usec"]
    assert idle.iloc[-1] == idle.iloc[0], "nothing runs on s2, the probe least of all"


@pytest.mark.parametrize("host", ["client", "s1", "s2", "links"])
def test_samples_are_taken_on_schedule_or_counted_as_missed(samples: pd.DataFrame, host: str) -> None:
    sampler = probes.table(samples, "sampler", host).iloc[:-1]  # the last one is when the probe was told to end
    times = sampler.index.get_level_values("monotonic_ns").to_numpy()
    due = times - sampler["late_us"].to_numpy() * 1000
    steps = np.rint((due - due[0]) * HZ / 1e9)
    assert np.abs(due - due[0] - steps * 1e9 / HZ).max() < 2000, "ns: lateness is in us"
    assert (np.diff(steps) >= 1).all()
    assert steps[-1] - (len(steps) - 1) == sampler["missed"].iloc[-1]


def test_a_probe_that_is_killed_leaves_its_samples(network: Running, tmp_path: Path) -> None:
    probe = Probe(network.client, tmp_path / "probes-client.parquet", hz=100)
    checked(network.client, "ping", "-q", "-c", "20", "-i", "0.01", "10.0.0.1")
    os.kill(probe._program.process.pid, 9)
    with pytest.raises(CommandError, match="has died, code -9"):
        probe.stop()
    assert probes.files(tmp_path) == [tmp_path / "probes-client.csv"]
    icmp = probes.table(probes.read(*probes.files(tmp_path)), "netstat", "client", "Icmp")["InEchoReps"]
    assert icmp.iloc[-1] > icmp.iloc[0]


def test_a_quota_that_holds_processes_up(network: Running, tmp_path: Path) -> None:
    with Probe(network.s2, tmp_path / "probes-s2.parquet", tcp=None, netstat=False) as probe:
        cpu.set_cpu(network.s2, 0.1)
        checked(network.s2, sys.executable, "-c", "import time\nwhile time.process_time() < 0.05: pass")
        cpu.set_cpu(network.s2, None)
    used = probes.table(probes.read(probe.path), "cpu", "s2", "s2")
    assert used["nr_throttled"].max() > 0
    assert used["usage_usec"].iloc[-1] > used["usage_usec"].iloc[0]


def test_one_that_cannot_start_says_why(network: Running, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no interface nothing0"):
        Probe(network.client, tmp_path / "x.parquet", qdisc=["nothing0"])
    assert not probes.files(tmp_path)
