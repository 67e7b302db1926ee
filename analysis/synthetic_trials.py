"""Run directories of trials with known answers, for tests; times in ms since the clients began.

Captures are those of analysis.synthetic.Download; beside them what the client program writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.synthetic import CLIENT_PORT, HOSTS, MONOTONIC_OFFSET_NS, START_NS, Download

HASH = "ab" * 32


def monotonic_ns(ms: float) -> int:
    """CLOCK_MONOTONIC at that time."""
    return START_NS - MONOTONIC_OFFSET_NS + round(ms * 1e6)


@dataclass
class SyntheticTrial(Download):
    """A trial with a fault at `fault` and its end at `end`."""

    fault: float = 4000
    end: float = 14000
    deliveries: list[tuple[int, int, str]] = field(default_factory=list)
    requests: list[tuple[int, int | None, int | None, int, str, str]] = field(default_factory=list)
    playout: list[tuple[int, int, int | None]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    connections: list[dict[str, Any]] = field(default_factory=list)

    def open(self, ms: float, server: str = "s1", port: int = CLIENT_PORT) -> None:
        """The client opens a connection, also on the wire."""
        self.handshake(ms, server, port)
        self.connections.append({"server": server, "local_port": port, "opened_ns": monotonic_ns(ms)})

    def read(self, ms: float, size: int, server: str = "s1") -> None:
        """The application reads bytes of the body."""
        self.deliveries.append((monotonic_ns(ms), size, server))

    def ask(self, asked: float, first: float | None, done: float | None, size: int = 1000) -> None:
        """A request."""
        first_ns, done_ns = (None if ms is None else monotonic_ns(ms) for ms in (first, done))
        self.requests.append((monotonic_ns(asked), first_ns, done_ns, size, "s1", "/small"))

    def segment_of_media(self, wanted: float, done: float | None) -> None:
        """A segment is to be played then, and is there then."""
        late = None if done is None else monotonic_ns(done)
        self.playout.append((len(self.playout), monotonic_ns(wanted), late))

    def decide(self, ms: float, source: str, to: str) -> None:
        """The client program decides to go to another server."""
        self.decisions.append({"monotonic_ns": monotonic_ns(ms), "from": source, "to": to, "why": "policy"})

    def moved(self, decided: float, source: str, to: str, **more: Any) -> None:
        """The agents report a move of the connection."""
        self.report(decided, source, to, connection=f"{HOSTS['client']}:{CLIENT_PORT}", **more)

    def write_trial(self, path: Path, record: dict[str, Any] | None = None, **client: Any) -> Path:
        """The run directory; `record` overrides parts of run.json, `client` of client.json."""
        report = {
            "exit": 0, "error": "", "bytes": sum(size for _, size, _ in self.deliveries), "sha256": HASH,
            "expected_sha256": HASH, "connections": self.connections, "decisions": self.decisions,
        } | client  # fmt: skip
        moments = {name: monotonic_ns(ms) for name, ms in (("start", 0), ("fault", self.fault), ("end", self.end))}
        facts = {
            "hosts": HOSTS, "moments_ns": moments, "clients": {"client": report},
            "capture_drops": dict.fromkeys(HOSTS, 0),
        }  # fmt: skip
        run = {
            "scenario": "congestion", "mechanism": "mtcp", "policy": "throughput", "seed": 7, "repetition": 1,
            "factors": {"rtt": 20.0, "bw": 100.0}, "emulation": "delay-line", "verdict": "invalid",
            "reason": "not judged yet", "facts": facts,
        }  # fmt: skip
        self.write(path, run | (record or {}))
        directory = path / "client"
        directory.mkdir(exist_ok=True)
        (directory / "client.json").write_text(json.dumps(report))
        columns = ["monotonic_ns", "bytes", "server"]
        pd.DataFrame(self.deliveries, columns=columns).to_parquet(directory / "deliveries.parquet")
        if self.requests:
            columns = ["asked_ns", "first_byte_ns", "done_ns", "bytes", "server", "path"]
            pd.DataFrame(self.requests, columns=columns).to_parquet(directory / "requests.parquet")
        if self.playout:
            columns = ["segment", "wanted_at_ns", "done_ns"]
            pd.DataFrame(self.playout, columns=columns).to_parquet(directory / "playout.parquet")
        return path
