"""The database soak: thousands of moves of PostgreSQL sessions that keep books, while front-ends are killed.

Sessions of psycopg (testbed.clients.ledger) work through the front-ends, by every way of the protocol there is; all
their connections move at random instants, and every now and then a front-end is killed and started again. In the end
the ledger must agree with what the clients were told, and with nothing but what PostgreSQL itself could have said.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console

from testbed import selftest
from testbed.capture import capturing, drops
from testbed.errors import TestbedError
from testbed.processes import PATIENCE, checked
from testbed.results import Run, Verdict
from topologies.database import PLAIN_PORT, PORT, Running, running

RESETS = f"port {PORT} and tcp[tcpflags] & tcp-rst != 0"
MOVING = 3600.0
"""Seconds within which all moves must have taken place."""
TRANSITIONS = {"40001", "25P02", "08007"}
"""SQLSTATEs that a session may hear when its front-end was killed: docs/postgres.md."""
BACK = 1.0
"""Seconds from the death of a front-end to its next life."""


@dataclass(frozen=True)
class DatabaseSoak:
    """What is varied."""

    migrations: int = 2000
    kills: int = 20
    sessions: int = 8
    think: float = 0.005
    """Mean seconds between a session's transactions: while one is under way it is held."""
    seed: int = 1


@dataclass
class _Moves:
    """What the mover has said so far."""

    moved: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    took_ms: list[float] = field(default_factory=list)

    def note(self, outcome: dict[str, Any]) -> None:
        if outcome["outcome"] == "moved":
            self.moved += 1
            self.took_ms.append((outcome["committed_ns"] - outcome["decided_ns"]) / 1e6)
        else:
            self.kept[outcome["reason"].partition(":")[0]] += 1


def soak(run: Run, setting: DatabaseSoak, console: Console) -> dict[str, Any]:
    """The figures, which are also in summary.json; the run has its verdict then."""
    with running(big=1_000_000, logs=run.path("logs")) as network:
        run.sysctls({host.name: host.sysctls for host in network.hosts})
        selftest.check(network.net, run)
        plain = ["--port", str(PLAIN_PORT)]
        checked(network.client, *_ledger("prepare", network, plain))
        options = ["--sessions", str(setting.sessions), "--seconds", str(MOVING), "--think", str(setting.think)]
        client = _start(network, _ledger("run", network, options))
        with capturing([network.client], run.directory, filters={"client": RESETS}) as captures:
            moves = _move(network, setting, console)
        assert client.stdin is not None
        client.stdin.close()
        said = client.stdout.read() if client.stdout else b""
        client.wait()
        run.path("said.json").write_bytes(said)
        out, err, code = network.client.pexec(_ledger("check", network, [*plain, "--said", str(run.path("said.json"))]))
        if code not in (0, 1) or not out:
            raise TestbedError(f"the ledger cannot be checked: {err or out}")
        stats = captures["client"].stats
        figures = _figures(json.loads(said), json.loads(out), moves) | {"resets": stats.captured if stats else None}
        figures |= {"capture_drops": sum(drops(captures).values())}
    word, reason = _verdict(figures, setting)
    figures = {"schema_version": 1, "verdict": word, "reason": reason, **figures}
    run.metadata["facts"] = {"setting": asdict(setting)}
    run.path("summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    run.finish(word, reason)
    return figures


def _ledger(what: str, network: Running, options: list[str]) -> list[str]:
    return [sys.executable, "-m", "testbed.clients.ledger", what, "--host", network.addresses["s1"], *options]


def _start(network: Running, command: list[str]) -> subprocess.Popen[bytes]:
    process: subprocess.Popen[bytes] = network.client.popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None
    )
    return process


def _move(network: Running, setting: DatabaseSoak, console: Console) -> _Moves:
    """Until there are moves enough; front-ends are killed at equal numbers of them."""
    mover = _start(
        network, [sys.executable, "-m", "experiments.soak_mover", "--pause", "0.03", "--seed", str(setting.seed)]
    )
    moves, draw, kills = _Moves(), random.Random(setting.seed), 0
    revivals: list[threading.Thread] = []
    assert mover.stdout is not None and mover.stdin is not None
    silence = threading.Timer(MOVING * PATIENCE, mover.kill)
    silence.start()
    for line in mover.stdout:
        moves.note(json.loads(line))
        if moves.moved >= setting.migrations:
            break
        if moves.moved >= (kills + 1) * setting.migrations / (setting.kills + 1):
            kills += 1
            for revival in revivals:
                revival.join()
            revivals = [threading.Thread(target=_kill, args=(network, network.servers[draw.randrange(2)]))]
            revivals[0].start()
            console.print(f"{moves.moved} moves, {kills} front-ends killed, kept: {dict(moves.kept)}", soft_wrap=True)
    silence.cancel()
    mover.stdin.close()
    mover.stdout.read()
    mover.wait()
    for revival in revivals:
        revival.join()
    return moves


def _kill(network: Running, server: Any) -> None:
    """And start it again: its sessions wait at the agent to be moved away."""
    network.pool.programs[f"postgres-{server}"].stop(signal.SIGKILL)
    time.sleep(BACK)
    network.start_front_end(server)


def _figures(said: dict[str, Any], faults: list[str], moves: _Moves) -> dict[str, Any]:
    times = sorted(ms for book in said["sessions"] for ms in book["ms"])
    took = sorted(moves.took_ms)
    return {
        "migrations": moves.moved,
        "kept_reasons": dict(moves.kept),
        "faults": faults[:20],
        "transactions": len(times),
        "outcomes": said["outcomes"],
        "transaction_ms_median": times[len(times) // 2] if times else None,
        "transaction_ms_max": times[-1] if times else None,
        "migration_ms_median": took[len(took) // 2] if took else None,
    }


def _verdict(figures: dict[str, Any], setting: DatabaseSoak) -> tuple[Verdict, str]:
    strange = set(figures["outcomes"]) - {"acknowledged"} - (TRANSITIONS if setting.kills else set())
    if figures["capture_drops"]:
        return "invalid", f"the capture dropped {figures['capture_drops']} packets"
    if figures["faults"]:
        return "failed", figures["faults"][0]
    if figures["resets"]:
        return "failed", f"{figures['resets']} RST on the clients' connections"
    if strange:
        return "failed", f"clients heard {', '.join(sorted(strange))}"
    if figures["migrations"] < setting.migrations:
        return "failed", f"{figures['migrations']} moves, wanted {setting.migrations}"
    return "succeeded", "the ledger agrees with what each client was told, no reset"
