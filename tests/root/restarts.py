"""How tests kill agents at chosen moments of a move, and what they wait for afterwards."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from mtcp.errors import MtcpError
from testbed.processes import Program, checked
from tests.root.corners import held, wait_until
from tests.root.scene import Outcome, Scene
from topologies.two_servers import CONTROL

BACK = 10.0
"""Seconds within which an application's connections are with a new agent, on a busy machine."""


def agent(scene: Scene, host: Any) -> Program:
    return scene.net.pool.programs[f"agent-{host}"]


def kill(scene: Scene, host: Any) -> None:
    agent(scene, host).stop(signal.SIGKILL)


def start(scene: Scene, host: Any) -> None:
    scene.net.pool.start_agent(host)


def row_at(host: Any, connection: str) -> dict[str, Any]:
    """What the host's agent says of the client's connection as a server; empty if it has none, or there is no agent."""
    with contextlib.suppress(MtcpError):
        return next((row for row in held(host) if row["connection"] == connection), {})
    return {}


def wait_until_held(host: Any, connection: str, state: str = "ESTABLISHED") -> None:
    """Until the host's agent has the connection again, and its application."""

    def is_held() -> bool:
        row = row_at(host, connection)
        return row.get("state") == state and row["application"] is not None

    wait_until(is_held, f"{connection} {state} at {host}", BACK)


def wait_until_moved(scene: Scene, connection: str, server: str) -> None:
    """Until the client's agent says that the connection is at `server`, and where else it could go."""

    def is_there() -> bool:
        with contextlib.suppress(MtcpError):
            row = scene.connections().get(connection, {"current": "", "others": []})
            return row["current"].startswith(f"{server}:") and bool(row["others"])
        return False

    wait_until(is_there, f"{connection} at {server}", BACK)


def capsules(program: Program) -> int:
    """How many migratable connections a server application has."""
    inodes = set()
    for fd in Path(f"/proc/{program.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if "mtcp-capsule" in str(fd.readlink()):
                inodes.add(fd.stat().st_ino)
    return len(inodes)


@contextlib.contextmanager
def stopped(program: Program) -> Iterator[None]:
    program.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        program.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def replies_withheld(scene: Scene) -> Iterator[None]:
    """Nothing goes from S1 to S2 on the control network; S1 hears S2."""
    checked(scene.net.s1, "ip", "route", "add", "blackhole", f"{CONTROL['s2']}/32")
    try:
        yield
    finally:
        checked(scene.net.s1, "ip", "route", "del", "blackhole", f"{CONTROL['s2']}/32")


def result(future: Future[Outcome]) -> Outcome | None:
    """The agent's answer; None when it ended before."""
    try:
        return future.result(30)
    except MtcpError:
        return None
