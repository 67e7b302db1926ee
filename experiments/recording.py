"""What is recorded while an experiment goes on: packets at its hosts, the machine's load, what the agents have done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from experiments import moves
from testbed.capture import Capture, capturing, drops
from testbed.fidelity import Monitor
from testbed.pool import EVENTS
from testbed.results import Run
from topologies.running import Running

AGENTS_WRITE = 0.3
"""Seconds after which what agents have noted is in their files: they write ten times a second."""


@contextlib.contextmanager
def recording(run: Run, network: Running, filters: Mapping[str, str] | None = None) -> Iterator[None]:
    """Capture at clients and servers and watch the machine while the block runs; then the agents' events are the run's.

    `filters`: what is captured, by host, where not all TCP. The run's facts get `hosts` and `capture_drops`.
    """
    hosts, captures, begun = [*network.clients, *network.servers], dict[str, Capture](), time.monotonic_ns()
    facts: dict[str, Any] = run.metadata.setdefault("facts", {})
    facts["hosts"] = {host.name: network.net.topo.clients[host.name] for host in network.clients} | network.addresses
    with Monitor(run, network.net, captures=captures), capturing(hosts, run.directory, filters=filters) as started:
        captures |= started
        yield
    facts["capture_drops"] = drops(captures)
    if any(EVENTS.glob("agent-*.jsonl")):
        time.sleep(AGENTS_WRITE)
    for event in moves.merge(EVENTS, {ip: name for name, ip in network.addresses.items()}, begun):
        run.event(event.pop("event"), event.pop("monotonic_ns"), **event)
