"""What a client's agent knows of servers: from probes and from hints."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mtcp.address import Endpoint
from mtcp.agent import probing
from mtcp.agent.probing import EVERY, HINT_LASTS, LOST, MOST, Servers
from mtcp.linux.echo import request
from mtcp.policy import Known

pytestmark = pytest.mark.unit
S1, S2 = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)


class Echo:
    """Answers as it is told."""

    sent: list[tuple[str, int]]

    def __init__(self, family: socket.AddressFamily) -> None:
        self.rtts: dict[str, float] = {}
        self.sent, self._due = [], []

    def send(self, ip: str, number: int) -> None:
        self.sent.append((ip, number))
        if ip in self.rtts:
            self._due.append((ip, number, self.rtts[ip]))

    def receive(self) -> Iterator[tuple[str, int, float]]:
        due, self._due = self._due, []
        yield from due

    def close(self) -> None:
        pass


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Echo:
    echo = Echo(socket.AF_INET)
    monkeypatch.setattr(probing, "Echo", lambda _: echo)
    return echo


def test_a_server_that_has_complained_counts_as_loaded_for_a_while() -> None:
    servers = Servers()
    servers.complained(S1, 1.0)
    assert servers.known([S1, S2], 1.0 + HINT_LASTS / 2) == {S1: Known(load=1.0)}
    assert servers.known([S1, S2], 1.1 + HINT_LASTS) == {}


def test_round_trips_are_smoothed(echo: Echo) -> None:
    servers, echo.rtts = Servers(), {S1.ip: 0.02}
    for tick in range(8):
        servers.probe([S1.ip, S2.ip], tick * EVERY)
    assert servers.known([S1, S2], 4.0) == {S1: Known(rtt=0.02), S2: Known(rtt=float("inf"))}
    echo.rtts[S1.ip] = 0.1
    servers.probe([S1.ip], 8 * EVERY)
    servers.probe([S1.ip], 9 * EVERY)
    rtt = servers.known([S1], 5.0)[S1].rtt
    assert rtt is not None and 0.03 < rtt < 0.07


def test_a_server_is_out_of_reach_when_it_has_not_answered_several_times(echo: Echo) -> None:
    servers, echo.rtts = Servers(), {S1.ip: 0.02}
    servers.probe([S1.ip], 0.0)
    servers.probe([S1.ip], EVERY)
    echo.rtts = {}
    for tick in range(2, 2 + LOST):
        servers.probe([S1.ip], tick * EVERY)
        assert servers.known([S1], 9.0)[S1].rtt == 0.02
    servers.probe([S1.ip], (2 + LOST) * EVERY)
    assert servers.known([S1], 9.0)[S1].rtt == float("inf")
    echo.rtts = {S1.ip: 0.02}
    servers.probe([S1.ip], (3 + LOST) * EVERY)
    servers.probe([S1.ip], (4 + LOST) * EVERY)
    assert servers.known([S1], 9.0)[S1].rtt == 0.02


def test_probes_are_bounded(echo: Echo) -> None:
    servers = Servers()
    many = [f"10.0.{i}.{j}" for i in range(4) for j in range(200)]
    for tick in range(1000):
        servers.probe(many * 2, tick * 0.01)
    assert len(echo.sent) <= MOST * (10 / EVERY + 1)
    assert len({ip for ip, _ in echo.sent}) == MOST


@pytest.mark.parametrize("identifier", [0, 0xFFFF, 0x1234])
def test_requests_have_a_checksum(identifier: int) -> None:
    """RFC 1071: over all of the message, the checksum included, it is 0."""
    packet = request(socket.AF_INET, identifier, 7, 0xFFFFFFFFFFFFFFFF)
    total = sum(int.from_bytes(packet[i : i + 2], "big") for i in range(0, len(packet), 2))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    assert total == 0xFFFF and packet[0] == 8
