"""`mtcp watch` beside real moves."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import sandbox
from testbed.processes import Program
from tests.root.scene import Scene
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 300)]

MTCP = Path(sys.executable).with_name("mtcp")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
EXPECTED = {
    "client": ["established", "migrate_sent", "migration"],
    "s1": ["attached", "request_received", "fenced", "dumped", "state_reply_sent", "left"],
    "s2": ["migrate_received", "state_request_sent", "reply_received", "restored", "delivered", "accept_sent"],
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("watch")
    with running(bw=50, big=12_000_000, logs=directory) as net, Scene.of(net, directory) as scene:
        yield scene


def watching(scene: Scene, name: str, tmp_path: Path, *options: str) -> Program:
    # Whoever runs tests in the background may have Ctrl-C ignored, and children inherit that.
    command = ["env", "--default-signal=INT", MTCP, "watch", *options]
    return Program(getattr(scene.net, name), command, tmp_path / f"{name}.log")


def wait_for(program: Program, text: str) -> None:
    """Wait until it has printed `text` somewhere."""
    deadline = time.monotonic() + 10
    while text not in program.output():
        assert time.monotonic() < deadline and program.process.poll() is None, program.output()
        time.sleep(0.01)


def wait_until_watched(scene: Scene, programs: dict[str, Program], text: str) -> None:
    """Short connections come and go until every one of them has seen its share."""
    deadline = time.monotonic() + 10
    while not all(text in program.output() for program in programs.values()):
        assert time.monotonic() < deadline, {name: program.output() for name, program in programs.items()}
        scene.client("curl", "-sS", "-o", "/dev/null", "http://s1/medium").result()
        time.sleep(0.1)


def test_a_move_as_each_host_sees_it(scene: Scene, tmp_path: Path) -> None:
    programs = {name: watching(scene, name, tmp_path, "--json") for name in EXPECTED}
    wait_until_watched(scene, {name: programs[name] for name in ("client", "s1")}, "\n")
    with scene.watched("moved"):
        client = scene.client("curl", "-sS", "http://s1/big")
        output = client.digest(held=1_000_000)
        [connection] = scene.wait_for_connections()
        outcome = scene.move(connection)
        client.tell()
        output.result()
    scene.judge(connection, [outcome])
    for name, program in programs.items():
        wait_for(program, f'"{EXPECTED[name][-1]}"')
        program.stop(signal.SIGINT)
        assert program.process.returncode == 0
        seen = [event for text in program.output().splitlines() if _of(event := json.loads(text), connection)]
        assert {event["host"] for event in seen} == {name}
        assert [event["event"] for event in seen if event["event"] in EXPECTED[name]] == EXPECTED[name]
        assert [event["time_ns"] for event in seen] == sorted(event["time_ns"] for event in seen)
        moving = [event for event in seen if event["event"] in EXPECTED[name][1:]]
        assert {event["attempt"] for event in moving} == {outcome["attempt"]}
    [said] = [event for event in seen_by(programs["client"]) if event["event"] == "migration"]
    assert {key: said[key] for key in outcome} == outcome


def _of(event: dict[str, Any], connection: str) -> bool:
    name = event["connection"]
    return connection == (name if isinstance(name, str) else f"{name[0]}:{name[1]}")


def seen_by(program: Program) -> list[dict[str, Any]]:
    return [json.loads(text) for text in program.output().splitlines()]


def test_lines_for_a_while(scene: Scene, tmp_path: Path) -> None:
    """It ends by itself; one that does not read keeps nobody waiting."""
    program, stopped = watching(scene, "s1", tmp_path, "--for", "3"), watching(scene, "client", tmp_path)
    wait_until_watched(scene, {"s1": program, "client": stopped}, "\n")
    stopped.process.send_signal(signal.SIGSTOP)
    with scene.watched("lines"):
        client = scene.client("curl", "-sS", "http://s1/big")
        output = client.digest(held=1_000_000)
        [connection] = scene.wait_for_connections()
        outcomes = [scene.move(connection) for _ in range(3)]  # ends on s2, which sends the rest
        client.tell()
        output.result()
    scene.judge(connection, outcomes)
    assert program.process.wait(10) == 0
    fenced = [text for text in program.output().splitlines() if " fenced " in text and connection in text]
    assert f"attempt {outcomes[0]['attempt']}" in fenced[0] and " s1 " in fenced[0]
    stopped.process.send_signal(signal.SIGCONT)
    wait_for(stopped, "migrate_sent")
    stopped.stop(signal.SIGINT)
    assert stopped.process.returncode == 0


def test_who_may(scene: Scene) -> None:
    out, err, status = scene.net.client.pexec([*NOBODY, str(MTCP), "watch"])
    assert status == 1 and err.strip() == "mtcp: only root and the agent's own user may watch", (out, err)


def test_into_a_pipe_that_closes(scene: Scene, tmp_path: Path) -> None:
    """Also: an agent that always has something to do finds time for its events (and keys, and sweeps)."""
    program = Program(scene.net.client, ["sh", "-c", f"{MTCP} watch | head -n 1"], tmp_path / "pipe.log")
    deadline = time.monotonic() + 20
    asked = 0
    while program.process.poll() is None:
        assert time.monotonic() < deadline, (asked, program.output())
        asked += 1
        scene.client("curl", "-sS", "-o", "/dev/null", "http://s1/medium").result()
    assert program.output().count("\n") == 1 and " client " in program.output(), program.output()
