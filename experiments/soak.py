"""The soak: thousands of moves of many connections, in rounds, while packets of every kind are lost.

In each round several clients run all workloads again and again, and their connections move at random instants to random
servers; the network loses data, acknowledgements, control segments and segments of the control connections. A
round is judged on its own: its captures are deleted when all was well, and kept when something was wrong.

The chain is the same with one connection per round, which moves on each time the instant its last move has committed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import workloads
from experiments.judging import judge_round, summary
from experiments.recording import recording
from experiments.workloads import Workload
from testbed import sandbox, selftest
from testbed.loss import Loss
from testbed.results import Run
from testbed.strict import compile_strict
from topologies.pool import CONTROL_PORT, running
from topologies.running import Running

SERVERS, CLIENTS = 3, 2
BIG = 12_000_000
ROUND = 500
"""Moves of a round, so that its captures stay within some hundred megabytes."""
PATIENCE = 180.0
"""Seconds for a round's moves."""
RESETS = "tcp[tcpflags] & tcp-rst != 0"
"""All that the verdict needs of the servers' captures."""
Act = Callable[[Running, Run, Path, int], list[dict[str, Any]]]


@dataclass(frozen=True)
class Soak:
    """What is varied."""

    migrations: int = 5000
    loss: float = 2.0
    """Percent of all packets."""
    bw: float = 200.0
    """Mbit/s of each service link."""
    seed: int = 1


def soak(run: Run, setting: Soak, console: Console) -> None:
    """Rounds of moves until there are enough of them, or one is not as it should be."""
    with _stage(run, setting, CLIENTS, workloads.SOAK) as (network, program):
        rss = [_memory(network)]
        done = number = 0
        while done < setting.migrations:
            wanted = min(ROUND, setting.migrations - done)
            factors = asdict(setting) | {"migrations": wanted, "round": number}
            figures = _round(run, network, program, factors, _soaking, console)
            done += figures["migrations"]
            number += 1
            rss.append(_memory(network))
            if figures["verdict"] != "succeeded":
                break
        run.metadata["facts"] = {"agents_rss_kb": rss}
    run.finish("invalid", "not judged yet")


def chain(run: Run, setting: Soak, console: Console) -> None:
    """A round per workload: one connection, `migrations` moves."""
    chains = workloads.chain(setting.migrations)
    with _stage(run, setting, 1, chains) as (network, program):
        for workload in chains:
            factors = asdict(setting) | {"workload": workload.name}
            _round(run, network, program, factors, _chained(workload), console)
    run.finish("invalid", "not judged yet")


@contextmanager
def _stage(run: Run, setting: Soak, clients: int, wanted: Sequence[Workload]) -> Iterator[tuple[Running, Path]]:
    """The network with all services, and the strict client."""
    program = compile_strict(sandbox.RUN)
    with running(SERVERS, clients, bw=setting.bw, big=BIG, logs=run.path("logs")) as network:
        run.sysctls({host.name: host.sysctls for host in network.hosts})
        selftest.check(network.net, run)
        run.limits({host.name: host.limits for host in network.hosts})
        workloads.serve(network.pool, network.servers, wanted)
        yield network, program


def _round(
    run: Run, network: Running, program: Path, factors: dict[str, Any], act: Act, console: Console
) -> dict[str, Any]:
    """One round, judged; its figures. Captured is everything at the clients, what gets lost, and resets at the servers;
    that is kept only if something was wrong."""
    name, seed = run.metadata["experiment"], factors["seed"] * 1000 + factors.get("round", 0)
    with Run("round", scenario=name, mechanism="mtcp", factors=factors, seed=seed, results=run.directory) as part:
        loss = Loss(network.net, factors["loss"], part.path("lost.pcap"))
        facts = part.metadata["facts"] = {
            "control": {server.name: server.control.partition(":")[0] for server in network.pool.servers},
            "control_port": CONTROL_PORT,
        }
        with recording(part, network, {server.name: RESETS for server in network.servers}), loss:
            facts["clients"] = act(network, part, program, seed)
        facts["capture_drops"] |= {"lost": loss.drops}
        facts["loss"] = {"passed": loss.passed, "lost": loss.lost}
        part.finish("invalid", "not judged yet")
    judge_round(part)
    figures = summary(part)
    if figures["verdict"] == "succeeded":
        for path in part.directory.glob("*.pcap*"):
            path.unlink()
    done = f"{figures['migrations']} moves, {figures['kept']} kept, {figures['packets_lost']} packets lost"
    worst = figures["worst"]["gap_ms"]
    console.print(f"{figures['verdict']}: {done}, worst gap {worst:.0f} ms: {figures['reason']}", soft_wrap=True)
    return figures


def _soaking(network: Running, part: Run, program: Path, seed: int) -> list[dict[str, Any]]:
    """All workloads on all clients, again and again, until there are moves enough; what the programs came to."""
    enough, outcomes = threading.Event(), _Outcomes(part.metadata["factors"]["migrations"])
    jobs = [(host, workload) for host in network.clients for workload in workloads.SOAK]

    def again_and_again(number: int, host: Any, workload: Workload) -> list[dict[str, Any]]:
        done: list[dict[str, Any]] = []
        while not enough.is_set() and all(each["ok"] for each in done):
            server = network.servers[(number + len(done)) % len(network.servers)]
            done.append(workload.perform(host, server.IP(), program, network.directory))
        return done

    with ThreadPoolExecutor(len(jobs) + len(network.clients)) as threads:
        movers = [_mover(host, "soak_mover", "--seed", str(seed + i)) for i, host in enumerate(network.clients)]
        for mover in movers:
            threads.submit(outcomes.follow, mover)
        programs = [threads.submit(again_and_again, n, *job) for n, job in enumerate(jobs)]
        outcomes.reached.wait(PATIENCE)
        enough.set()
        for mover in movers:
            assert mover.stdin is not None
            mover.stdin.close()
        return [each for job in programs for each in job.result()]


def _chained(workload: Workload) -> Act:
    def act(network: Running, part: Run, program: Path, seed: int) -> list[dict[str, Any]]:
        server, wanted = network.servers[0].IP(), part.metadata["factors"]["migrations"]
        with ThreadPoolExecutor(1) as threads:
            result = threads.submit(workload.perform, network.client, server, program, network.directory)
            mover = _mover(network.client, "chain_mover", "--migrations", str(wanted), "--seed", str(seed))
            _Outcomes(wanted).follow(mover)
            mover.wait()
            return [result.result()]

    return act


def _mover(host: Any, module: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"experiments.{module}", *options]
    mover: subprocess.Popen[bytes] = host.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
    return mover


class _Outcomes:
    """How many moves have taken place, over all movers."""

    def __init__(self, wanted: int) -> None:
        self.reached = threading.Event()
        self._left = wanted
        self._lock = threading.Lock()

    def follow(self, mover: subprocess.Popen[bytes]) -> None:
        """Read what a mover prints until it ends."""
        assert mover.stdout is not None
        for line in mover.stdout:
            with self._lock:
                self._left -= json.loads(line)["outcome"] == "moved"
                if self._left <= 0:
                    self.reached.set()


def _memory(network: Running) -> dict[str, int]:
    """Resident memory of the agents, kB."""
    found = {}
    for name, program in network.pool.programs.items():
        if name.startswith("agent-"):
            status = Path(f"/proc/{program.process.pid}/status").read_text()
            found[name] = int(status.partition("VmRSS:")[2].split()[0])
    return found
