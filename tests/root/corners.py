"""What the tests of TCP's corners share: a scene with its services, and the servers' agents' word on what they have."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mtcp.agent import local
from mtcp.errors import MtcpError
from testbed import sandbox
from testbed.namespaces import enter_network_of
from testbed.processes import Program
from tests.root.scene import SERVERS, Outcome, Scene
from topologies.two_servers import running

SERVICES = Path(__file__).parents[1] / "services"
CLIENTS = Path(__file__).parents[1] / "clients"
MBITS = 400
PER_SECOND = MBITS * 125_000
STREAM, COUNTER = "7001", "7002"
FORGOTTEN = 10.0
"""Seconds within which agents forget a connection that has ended."""


def stage(
    factory: pytest.TempPathFactory, bw: float | None = MBITS, sysctls: Mapping[str, str] | None = None
) -> Iterator[Scene | None]:
    """A module's scene, with stream and counter; None outside the sandbox, where no test runs."""
    if not sandbox.inside():
        yield None
        return
    directory = factory.mktemp("scene")
    with running(bw=bw, big=1_000_000, logs=directory, sysctls=sysctls) as net, Scene.of(net, directory) as scene:
        scene.service("stream", "--port", STREAM)
        scene.service("counter", "--port", COUNTER)
        yield scene


def serve(scene: Scene, script: str, *arguments: str) -> list[Program]:
    """Run one of tests/services on both servers."""
    programs = []
    for host in (scene.net.s1, scene.net.s2):
        log = scene.directory / f"{script}-{host}-{len(scene.programs)}.log"
        program = Program(host, [sys.executable, SERVICES / script, *arguments], log)
        scene.programs.append(program)
        programs.append(program)
        program.wait_for("listening")
    return programs


def in_network_of(host: Any, action: Callable[[], Any]) -> Any:
    """Call `action` in a thread that is in the host's network."""
    results: list[Any] = []

    def run() -> None:
        enter_network_of(host.pid)
        results.append(action())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def held(host: Any) -> list[dict[str, Any]]:
    """The connections that the host's agent has as a server's."""
    answer = in_network_of(host, lambda: local.request({"op": "ls"}))
    return [row for row in answer["connections"] if row["role"] == "server"]


def wait_until(condition: Callable[[], Any], what: str, seconds: float = FORGOTTEN) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def wait_until_forgotten(scene: Scene, connection: str) -> None:
    """Wait until no agent knows the client's connection any more."""

    def known() -> list[Any]:
        rows = [row for host in (scene.net.s1, scene.net.s2) for row in held(host)]
        return [row for row in rows if row["connection"] == connection] + [
            row for name, row in scene.connections().items() if name == connection
        ]

    wait_until(lambda: not known(), f"{connection} forgotten")


def move_until_it_ends(scene: Scene, connection: str, instants: random.Random, pause: float) -> list[Outcome]:
    """Each request must be answered; that the connection has ended is a good reason to refuse.

    `pause`: seconds at most between them.
    """
    outcomes: list[Outcome] = []
    while (row := scene.connections().get(connection)) is not None and len(outcomes) < 30:
        current = row["current"].split(":")[0]
        try:
            outcomes.append(scene.move(connection, SERVERS[current == SERVERS[0]]))
        except MtcpError as error:
            assert "under way" not in str(error), error
        time.sleep(instants.uniform(0.0, pause))
    return outcomes
