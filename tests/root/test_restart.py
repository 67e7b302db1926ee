"""Agents are killed at any moment and started again: nothing is noticed, and connections go on moving."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.processes import Program
from testbed.strict import compile_strict
from tests.root.corners import CLIENTS, COUNTER, STREAM, serve, stage, wait_until, wait_until_forgotten
from tests.root.restarts import (
    agent,
    capsules,
    kill,
    replies_withheld,
    result,
    row_at,
    start,
    stopped,
    wait_until_held,
    wait_until_moved,
)
from tests.root.scene import SERVERS, UNTIL_TOLD, ClientProgram, Outcome, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(90 if sandbox.inside() else 1200)]
FORKING, ASYNC = "7101", "7003"
PACE = ("-c", "20000", "-i", "2000")
"""10 MB/s, so that a stall shows and a restart takes place in mid-stream."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    for scene in stage(tmp_path_factory):
        if scene is not None:
            serve(scene, "forking.py", "--port", FORKING)
            scene.service("stream", "--port", ASYNC, "--asyncio")
        yield scene


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


def begin(scene: Scene, strict: Path, port: str = STREAM, mode: str = "recv") -> tuple[ClientProgram, str]:
    """A paced download, of which the client's agent knows."""
    client = scene.client(strict, *PACE, mode, SERVERS[0], port, UNTIL_TOLD)
    [connection] = scene.wait_for_connections()
    return client, connection


def end(scene: Scene, client: ClientProgram, connection: str, outcomes: list[Outcome]) -> None:
    """It goes on: moves are as they were before."""
    outcomes += scene.moves(connection, 3, seed=5)
    client.tell()
    client.strict()
    wait_until_forgotten(scene, connection)


@pytest.mark.parametrize("port", [STREAM, ASYNC, FORKING], ids=["threads", "asyncio", "forking"])
@pytest.mark.parametrize("mode", ["recv", "upload", "threads"])
def test_the_servers_agent_begins_anew(scene: Scene, strict: Path, mode: str, port: str) -> None:
    s1, s2 = scene.net.s1, scene.net.s2
    with scene.watched(f"idle-{mode}-{port}"):
        client, connection = begin(scene, strict, port, mode)
        kill(scene, s1)
        start(scene, s1)
        wait_until_held(s1, connection)
        outcomes = [scene.move(connection, SERVERS[1])]
        # So does the agent of the server that has taken it.
        kill(scene, s2)
        start(scene, s2)
        wait_until_held(s2, connection)
        end(scene, client, connection, outcomes)
    scene.judge(connection, outcomes)


def test_a_connection_with_nothing_on_its_way(scene: Scene, strict: Path) -> None:
    with scene.watched("quiet"):
        client = scene.client(strict, "turns", SERVERS[0], STREAM, "1000")
        [connection] = scene.wait_for_connections()
        outcomes: list[Outcome] = []
        for turn in range(20):
            if turn % 10 == 3:
                here = scene.net.s1 if scene.other_server(connection) == SERVERS[1] else scene.net.s2
                kill(scene, here)
                start(scene, here)
                wait_until_held(here, connection)
            outcomes += scene.moves(connection, turn % 3, seed=turn)
            client.tell()
            assert client.line() == "turn"
        client.strict()
    scene.judge(connection, outcomes)


def test_every_byte_is_counted_once(scene: Scene) -> None:
    s1 = scene.net.s1
    with scene.watched("counter"):
        client = scene.client(sys.executable, CLIENTS / "counting.py", SERVERS[0], COUNTER, UNTIL_TOLD, "1")
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, 2, seed=1)
        kill(scene, s1)
        start(scene, s1)
        wait_until_held(s1, connection)
        outcomes += scene.moves(connection, 5, seed=2)
        client.tell()
        client.result()
    scene.judge(connection, outcomes)


def test_killed_when_fenced_and_the_client_commits(scene: Scene, strict: Path) -> None:
    """What the agent had sent its kernel delivers."""
    s1 = scene.net.s1
    application = _application(scene)
    with scene.watched("committed"):
        client, connection = begin(scene, strict)
        before = capsules(application)
        with replies_withheld(scene):
            asked = scene.asking({"op": "migrate", "connection": connection, "to": SERVERS[1]})
            wait_until_held(s1, connection, "FENCED")
            kill(scene, s1)
        outcome = result(asked)
        assert outcome is not None and outcome["outcome"] == "moved", outcome
        assert capsules(application) == before
        start(scene, s1)
        wait_until(lambda: capsules(application) == before - 1, "S1's application learns that it has left")
        assert not row_at(s1, connection)
        outcomes = [outcome]
        end(scene, client, connection, outcomes)
    scene.judge(connection, outcomes)


def test_killed_when_fenced_and_the_client_gives_up(scene: Scene, strict: Path) -> None:
    s1 = scene.net.s1
    with scene.watched("aborted"):
        client, connection = begin(scene, strict)
        with replies_withheld(scene):
            asked = scene.asking({"op": "migrate", "connection": connection, "to": SERVERS[1]})
            wait_until_held(s1, connection, "FENCED")
            kill(scene, s1)
            start(scene, s1)
            outcome = result(asked)
            assert outcome is not None and outcome["outcome"] == "kept", outcome
            wait_until_held(s1, connection)
        outcomes: list[Outcome] = []
        end(scene, client, connection, outcomes)
    scene.judge(connection, outcomes)


def test_killed_when_fenced_and_asked_again(scene: Scene, strict: Path) -> None:
    """The new server repeats its request; the state is still there, and told once more."""
    s1 = scene.net.s1
    with scene.watched("asked-again"):
        client, connection = begin(scene, strict)
        with replies_withheld(scene):
            asked = scene.asking({"op": "migrate", "connection": connection, "to": SERVERS[1]})
            wait_until_held(s1, connection, "FENCED")
            kill(scene, s1)
            start(scene, s1)
            wait_until_held(s1, connection, "FENCED")
        outcome = result(asked)
        assert outcome is not None and outcome["outcome"] == "moved", outcome
        outcomes = [outcome]
        end(scene, client, connection, outcomes)
    scene.judge(connection, outcomes)


def test_killed_when_it_has_taken_the_connection(scene: Scene, strict: Path) -> None:
    """Nobody has told it that the client has committed: the client's agent has been stopped before it could."""
    net = scene.net
    with scene.watched("taken"):
        client = scene.client(strict, "turns", SERVERS[0], STREAM, "1000")
        [connection] = scene.wait_for_connections()
        with stopped(agent(scene, net.s2)):
            asked = scene.asking({"op": "migrate", "connection": connection, "to": SERVERS[1]})
            wait_until(lambda: scene.connections()[connection]["state"] == "SS_ISMIGRATING", "the move has begun")
            agent(scene, net.client).process.send_signal(signal.SIGSTOP)
        wait_until(lambda: row_at(net.s2, connection), "S2 has taken it")
        kill(scene, net.s2)
        start(scene, net.s2)
        wait_until_held(net.s2, connection)
        agent(scene, net.client).process.send_signal(signal.SIGCONT)
        outcome = result(asked)
        assert outcome is not None and outcome["outcome"] == "moved", outcome
        wait_until(lambda: not row_at(net.s1, connection), "S1 learns that it has left")
        outcomes = [outcome]
        for turn in range(20):
            outcomes += scene.moves(connection, turn % 2, seed=turn)
            client.tell()
            assert client.line() == "turn"
        client.strict()
    scene.judge(connection, outcomes)


def test_the_clients_agent_begins_anew(scene: Scene, strict: Path) -> None:
    with scene.watched("client-idle"):
        client, connection = begin(scene, strict)
        outcomes = [scene.move(connection)]
        kill(scene, scene.net.client)
        start(scene, scene.net.client)
        wait_until_moved(scene, connection, SERVERS[1])
        end(scene, client, connection, outcomes)
    scene.judge(connection, outcomes)


@pytest.mark.parametrize("committed", [False, True], ids=["withdrawn", "committed"])
def test_the_clients_agent_is_killed_in_the_middle_of_a_move(scene: Scene, strict: Path, committed: bool) -> None:
    net = scene.net
    with scene.watched(f"client-{committed}"):
        client, connection = begin(scene, strict)
        with stopped(agent(scene, net.s2)):
            asked = scene.asking({"op": "migrate", "connection": connection, "to": SERVERS[1]})
            wait_until(lambda: scene.connections()[connection]["state"] == "SS_ISMIGRATING", "the move has begun")
            kill(scene, net.client)
            assert result(asked) is None
            if not committed:
                start(scene, net.client)
                wait_until_moved(scene, connection, SERVERS[0])
        if committed:
            wait_until_held(net.s2, connection)
            start(scene, net.client)
            wait_until_moved(scene, connection, SERVERS[1])
            wait_until(lambda: not row_at(net.s1, connection), "S1 learns that it has left")
        outcomes: list[Outcome] = []
        end(scene, client, connection, outcomes)
    scene.judge(connection, outcomes)


def test_all_agents_one_after_another(scene: Scene, strict: Path) -> None:
    net = scene.net
    with scene.watched("all"):
        client, connection = begin(scene, strict)
        outcomes = []
        for host in (net.s1, net.s2, net.client):
            kill(scene, host)
            start(scene, host)
            wait_until_held(net.s1, connection)
            wait_until_moved(scene, connection, SERVERS[0])
            outcomes += scene.moves(connection, 2, seed=3)
        end(scene, client, connection, outcomes)
    scene.judge(connection, outcomes)


@pytest.mark.parametrize("seed", range(4))
def test_at_any_moment_of_a_move(scene: Scene, strict: Path, seed: int) -> None:
    """Whatever comes of the move: the stream is whole, and the connection can move afterwards."""
    net, instants = scene.net, random.Random(seed)
    with scene.watched(f"any-{seed}"):
        client, connection = begin(scene, strict, mode="threads")
        for host in instants.sample([net.s1, net.s2, net.client], 3):
            to = scene.other_server(connection)
            asked = scene.asking({"op": "migrate", "connection": connection, "to": to})
            time.sleep(instants.uniform(0, 0.02))
            kill(scene, host)
            start(scene, host)
            result(asked)
            wait_until(lambda: _can_move(scene, connection), "it can move again", 20)
        # A server whose application has not come back to its agent yet still has the socket that it gave away.
        wait_until(lambda: scene.move(connection)["outcome"] == "moved", "it moves", 10)
        outcomes: list[Outcome] = []
        end(scene, client, connection, outcomes)
    scene.judge(connection, outcomes)


def _can_move(scene: Scene, connection: str) -> bool:
    """Whether all agree on who has it, and it is settled."""
    row = scene.connections().get(connection)
    if row is None or row["state"] != "TRACKED" or not row["others"]:
        return False
    here = row["current"].split(":")[0]
    hosts = dict(zip(SERVERS, (scene.net.s1, scene.net.s2), strict=True))
    states = {ip: row_at(host, connection).get("state") for ip, host in hosts.items()}
    return all(state == ("ESTABLISHED" if ip == here else None) for ip, state in states.items())


def _application(scene: Scene) -> Program:
    """S1's stream service, that with threads."""
    return next(p for p in scene.programs if p.log.name.startswith("stream-s1"))
