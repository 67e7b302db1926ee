"""Probes of round-trip times, in a sandbox's own loopback."""

from __future__ import annotations

import socket
import time

import pytest

from mtcp.linux.echo import Echo
from testbed import sandbox

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(20 if sandbox.inside() else 200)]


@pytest.mark.parametrize(
    ("family", "ip"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"]
)
def test_replies_come_to_who_asked(family: socket.AddressFamily, ip: str) -> None:
    mine, other = Echo(family), Echo(family)
    try:
        for number in (1, 2, 0xFFFF):
            mine.send(ip, number)
        found: list[tuple[str, int, float]] = []
        deadline = time.monotonic() + 5
        while len(found) < 3 and time.monotonic() < deadline:
            found += mine.receive()
        assert [(peer, number) for peer, number, _ in found] == [(ip, 1), (ip, 2), (ip, 0xFFFF)]
        assert all(0 < seconds < 1 for *_, seconds in found)
        assert list(other.receive()) == []
    finally:
        mine.close()
        other.close()
