"""Cross traffic does what it says, and says what it did."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.cross_traffic import CrossTraffic
from testbed.nodes import MtcpHost
from testbed.processes import CommandError, Program, checked
from topologies.pool import running
from topologies.running import Running

pytestmark = pytest.mark.sandbox(shared=True)

BOTTLENECK = 20


@pytest.fixture(scope="module")
def network() -> Iterator[Running | None]:
    if not sandbox.inside():
        yield None
        return
    with running(1, 1, bw=BOTTLENECK, agents=False, big=10_000) as network:
        yield network


@pytest.mark.parametrize("udp", [False, True])
def test_it_sends_what_it_says(network: Running, tmp_path: Path, udp: bool) -> None:
    traffic = CrossTraffic(network.client, *network.servers, 5, udp=udp, seconds=1, logs=tmp_path)
    report = traffic.result()
    assert report["protocol"] == ("udp" if udp else "tcp") and report["asked_mbit"] == 5
    # Only too much is wrong: a busy machine sends less.
    assert 1 < report["received_mbit"] <= report["sent_mbit"] * 1.01 < 5 * 1.25
    assert not udp or 0 <= report["lost"] < report["packets"]


@pytest.mark.parametrize("udp", [False, True])
def test_what_the_path_does_not_carry_is_reported(network: Running, tmp_path: Path, udp: bool) -> None:
    (server,) = network.servers
    before = received(server)
    with CrossTraffic(network.client, server, 60, udp=udp, logs=tmp_path, streams=2) as traffic:
        while received(server) < before + 2_000_000:
            assert traffic.client is not None and traffic.client.process.poll() is None
            time.sleep(0.02)
        report = traffic.finish()
    assert report["asked_mbit"] == 60 and 0 < report["seconds"] < 60
    assert 0 < report["received_mbit"] < 1.2 * BOTTLENECK
    if udp:
        assert report["lost"] > 0 and report["sent_mbit"] > report["received_mbit"]
    else:
        assert report["retransmits"] >= 0


def received(host: MtcpHost) -> int:
    """Bytes at its first interface."""
    return int(checked(host, "sh", "-c", f"grep {host.defaultIntf().name} /proc/net/dev").partition(":")[2].split()[0])


def test_a_server_that_cannot_listen_and_a_client_that_cannot_connect_are_errors(
    network: Running, tmp_path: Path
) -> None:
    (server,) = network.servers
    with pytest.raises(CommandError, match="unable to connect"):
        CrossTraffic(network.client, server, 5, address="10.0.0.101", logs=tmp_path)
    taken = Program(server, ["iperf3", "-s", "--forceflush"], tmp_path / "taken")
    taken.wait_for("Server listening")
    with pytest.raises(CommandError, match="iperf3 on s1"), CrossTraffic(network.client, server, 5, logs=tmp_path) as t:
        t.finish()
    taken.stop()


@pytest.mark.parametrize(("mbit", "udp", "seconds"), [(None, True, 1), (0, False, 1), (5, False, 1e9)])
def test_nonsense_is_refused(network: Running, tmp_path: Path, mbit: float | None, udp: bool, seconds: float) -> None:
    with pytest.raises(ValueError):
        CrossTraffic(network.client, *network.servers, mbit, udp=udp, seconds=seconds, logs=tmp_path)
