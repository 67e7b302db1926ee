"""A flooded server: an honest client still moves to it, and what the flood of forged moves occupies is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mtcp.agent import local
from mtcp.agent.server import MAX_PENDING
from testbed import sandbox
from testbed.generators import Generator
from testbed.namespaces import enter_network_of
from testbed.strict import compile_strict
from topologies.pool import running
from topologies.running import Running

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(200)]

PORT = 7001
MOVES = 15
SECONDS = 60
MEASURED = os.environ.get("MTCP_TEST_FIGURES")
"""File to which the figures are appended, as JSON lines."""


@dataclass
class Victim:
    """What is seen of the flooded server's agent."""

    network: Running
    rss_kb: list[int] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)

    def look(self) -> None:
        out, err, code = self.network.servers[1].pexec(["mtcp", "status", "--json"])
        assert code == 0, err
        self.status = json.loads(out)
        self.pending.append(self.status["pending_attempts"])
        pid = self.network.pool.programs["agent-s2"].process.pid
        self.rss_kb.append(int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]))

    def watch(self, ended: threading.Event) -> None:
        while not ended.wait(0.5):
            self.look()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Running | None]:
    if not sandbox.inside():
        yield None
        return
    with running(2, 2, bw=100, big=1000, logs=tmp_path / "logs") as network:
        network.pool.serve(network.servers, "stream", "--port", PORT)
        yield network


@pytest.mark.parametrize(
    ("sources", "rate", "least", "slowest_ms"),
    [("one", 2000, MOVES, 1000), ("many", 400, MOVES, 1000), ("many", 2000, MOVES * 2 // 3, 5000)],
)
def test_an_honest_client_moves_to_a_server_under_flood(
    network: Running, tmp_path: Path, sources: str, rate: int, least: int, slowest_ms: float
) -> None:
    client, s1, s2 = network.client, *network.servers
    size = "24000000"  # 200 kB/s for two minutes
    command = [str(compile_strict(tmp_path)), "-c", "4000", "-i", "20000", "recv", s1.IP(), str(PORT), size]
    strict = client.popen(command, stdout=subprocess.PIPE)
    with ThreadPoolExecutor(1, initializer=enter_network_of, initargs=(client.pid,)) as commands:
        connection = _connection(commands)
        victim, ended = Victim(network), threading.Event()
        victim.look()
        flood = _flood(network, tmp_path, sources, rate)
        with ThreadPoolExecutor(1) as watching:
            watched = watching.submit(victim.watch, ended)
            there = []
            for _ in range(MOVES):
                there.append(_move(commands, connection, s2.IP()))
                if there[-1]["outcome"] == "moved":
                    assert _move(commands, connection, s1.IP())["outcome"] == "moved"
                time.sleep(0.1)
            assert flood.process.poll() is None, "the flood ended before the moves did"
            ended.set()
            watched.result()
        report = flood.finish()
    assert strict.poll() is None
    strict.kill()
    delays = sorted((o["committed_ns"] - o["decided_ns"]) / 1e6 for o in there if o["outcome"] == "moved")
    _note(sources, rate, len(there), delays, victim, network)
    assert len(delays) >= least, there
    assert delays[-1] < slowest_ms
    assert report["rate"] > rate / 2, report
    assert max(victim.pending) <= MAX_PENDING
    assert max(victim.rss_kb) < victim.rss_kb[0] + 30_000


def _connection(commands: ThreadPoolExecutor) -> str:
    deadline = time.monotonic() + 10
    while True:
        rows = commands.submit(local.request, {"op": "ls"}).result()["connections"]
        if rows and rows[0]["others"]:
            return str(rows[0]["connection"])
        assert time.monotonic() < deadline, rows
        time.sleep(0.01)


def _move(commands: ThreadPoolExecutor, connection: str, to: str) -> dict[str, Any]:
    """Ask until the last attempt's end is not in the way any more."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return commands.submit(local.request, {"op": "migrate", "connection": connection, "to": to}).result(30)
        except local.MtcpError as error:
            assert "under way" in str(error) and time.monotonic() < deadline, error
            time.sleep(0.05)


def _flood(network: Running, directory: Path, sources: str, rate: int) -> Generator:
    s1, s2 = network.servers
    words = ["moves", f"{s2.IP()}:{PORT}", "--old", s1.IP(), "--rate", rate, "--seconds", SECONDS]
    words += ["--sources", "own"] if sources == "one" else []
    return Generator(network.clients[1], "testbed.attack", *words, log=directory / "attack.log")


def _note(sources: str, rate: int, asked: int, delays: list[float], victim: Victim, network: Running) -> None:
    if MEASURED:
        row = {"sources": sources, "rate": rate, "asked": asked, "moved": len(delays)}
        row |= {"median_ms": round(delays[len(delays) // 2], 2), "max_ms": round(delays[-1], 2)} if delays else {}
        row |= {"pending_max": max(victim.pending), "rss_kb": [victim.rss_kb[0], max(victim.rss_kb)]}
        row |= {"log_kb": (network.logs / "agent-s2.log").stat().st_size >> 10}
        row |= {"segments": victim.status["control_segments"]}
        with Path(MEASURED).open("a") as file:
            file.write(json.dumps(row) + "\n")
