"""What a client's agent knows of servers: how far they are, by probes, and which have asked to be left."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from mtcp.address import Endpoint
from mtcp.linux.echo import Echo
from mtcp.policy import Known

log = logging.getLogger(__name__)
EVERY = 0.5
"""Seconds between probes of a server."""
MOST = 64
"""Servers that are probed."""
WEIGHT = 0.25
"""Of the latest round-trip time, in the smoothed one."""
LOST = 3
"""Probes in a row without an answer, for a server to count as out of reach."""
HINT_LASTS = 10.0
"""Seconds for which a server's hint tells of its load: the longer, the longer one that has recovered is avoided."""


@dataclass
class _Probed:
    number: int = 0
    unanswered: int = 0
    rtt: float | None = None

    def answered(self, number: int, seconds: float) -> None:
        if number > self.number or number <= self.number - LOST:
            return
        self.unanswered = 0
        self.rtt = seconds if self.rtt is None else self.rtt + WEIGHT * (seconds - self.rtt)

    def missed(self) -> None:
        self.number = (self.number + 1) & 0xFFFF
        self.unanswered += 1


class Servers:
    """All that this host's connections may go to."""

    def __init__(self) -> None:
        self._echoes: dict[socket.AddressFamily, Echo | None] = {}
        self._probed: dict[str, _Probed] = {}
        self._next = 0.0
        self._complained: dict[Endpoint, float] = {}

    def complained(self, server: Endpoint, now: float) -> None:
        """It has asked a client of this host to be left."""
        self._complained[server] = now

    def known(self, servers: Iterable[Endpoint], now: float) -> dict[Endpoint, Known]:
        """What is known of these."""
        found = {}
        for server in servers:
            probed = self._probed.get(server.ip)
            load = 1.0 if now - self._complained.get(server, float("-inf")) < HINT_LASTS else None
            rtt = None if probed is None else float("inf") if probed.unanswered > LOST else probed.rtt
            if rtt is not None or load is not None:
                found[server] = Known(rtt, load)
        return found

    def probe(self, addresses: Iterable[str], now: float) -> None:
        """Take the answers that have come, and probe these, if it is time again."""
        for echo in self._echoes.values():
            for ip, number, seconds in echo.receive() if echo is not None else ():
                if ip in self._probed:
                    self._probed[ip].answered(number, seconds)
        if now < self._next:
            return
        self._next = now + EVERY
        self._probed = {ip: self._probed.get(ip) or _Probed() for ip in sorted(set(addresses))[:MOST]}
        for ip, probed in self._probed.items():
            probed.missed()
            if (echo := self._echo(ip)) is not None:
                echo.send(ip, probed.number)

    def _echo(self, ip: str) -> Echo | None:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        if family not in self._echoes:
            try:
                self._echoes[family] = Echo(family)
            except OSError as error:
                log.warning("no probes of %s: %s", ip, error.strerror)
                self._echoes[family] = None
        return self._echoes[family]

    def close(self) -> None:
        for echo in self._echoes.values():
            if echo is not None:
                echo.close()
