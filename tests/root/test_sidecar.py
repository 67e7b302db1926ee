"""Unmodified nginx behind sidecars, unmodified clients: downloads move, uploads wait, no wrong byte is delivered."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import testbed.clients
from mtcp.address import Endpoint
from testbed import nginx, sandbox
from testbed.processes import PATIENCE, Program
from tests.root.http_client import eventually
from tests.root.scene import SERVERS, Outcome, Scene
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(200 if sandbox.inside() else 900)]

PORT = 8080
MBITS = 200
MOVES = 15
URL = f"http://{SERVERS[0]}:{PORT}"
CLIENTS = Path(__file__).parents[1] / "clients"
CHECKED = Path(testbed.clients.__file__).with_name("checked.lua")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("scene")
    with running(bw=MBITS, big=40_000_000, logs=directory) as net, Scene.of(net, directory) as scene:
        for host in (net.s1, net.s2):
            shutil.copytree(net.directory, directory / f"www-{host}", copy_function=shutil.copy2)
            log = directory / f"nginx-{host}.log"
            scene.programs.append(nginx.start(host, directory / f"nginx-{host}", directory / f"www-{host}", log))
        yield scene


@pytest.fixture(autouse=True)
def sidecars(scene: Scene | None) -> Iterator[list[Program]]:
    """New ones for each test, of s1 and s2."""
    if scene is None:
        yield []
        return
    hosts = (scene.net.s1, scene.net.s2)
    programs = [nginx.sidecar(host, PORT, scene.directory / f"sidecar-{host}.log") for host in hosts]
    yield programs
    for program in programs:
        program.stop()
        assert "Traceback" not in program.output(), program.output()


def sha256(scene: Scene, *names: str) -> str:
    return hashlib.sha256(b"".join((scene.net.directory / name).read_bytes() for name in names)).hexdigest()


def sidecar_of(scene: Scene, host: str) -> str:
    return (scene.directory / f"sidecar-{host}.log").read_text()


@pytest.mark.parametrize("client", [["curl", "-sSN"], ["wget", "-q", "-O", "-"]], ids=["curl", "wget"])
def test_download(scene: Scene, client: list[str]) -> None:
    with scene.watched("download"):
        program = scene.client(*client, f"{URL}/big")
        digest = program.digest()
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, seed=1)
        assert program.runs, "the client ended before the moves did: make the download longer"
        assert digest.result() == sha256(scene, "big")
    scene.judge(connection, outcomes)


def test_keep_alive(scene: Scene) -> None:
    """Files, and answers of which nothing can be asked for again, in one connection that moves on and on."""
    names = ["medium", "small", "big"] * 2
    missing = scene.client("curl", "-sS", f"{URL}/missing").result()
    assert "404 Not Found" in missing
    with scene.watched("keep-alive"):
        program = scene.client("curl", "-sSN", *(f"{URL}/{name}" for name in [*names, "missing"]))
        got = program.digest()
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, seed=2)
        assert program.runs
        content = b"".join((scene.net.directory / name).read_bytes() for name in names)
        assert got.result() == hashlib.sha256(content + missing.encode() + b"\r\n").hexdigest()
    scene.judge(connection, outcomes)


def test_pipelining(scene: Scene) -> None:
    names = ["small", "medium"] * 30
    with scene.watched("pipelining"):
        program = scene.client(
            sys.executable, CLIENTS / "pipelining.py", SERVERS[0], str(PORT), *(f"/{name}" for name in names)
        )
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES // 2, seed=3)
        assert program.runs
        assert program.result() == sha256(scene, *names)
    scene.judge(connection, outcomes)


def wait_for_downloads(scene: Scene, count: int) -> list[str]:
    """Wait for so many connections on which something comes."""
    found: list[str] = []

    def there() -> bool:
        found[:] = [connection for connection in scene.wait_for_connections(count) if scene.received(connection)]
        return len(found) == count

    eventually(there)
    return found


def test_many_at_once(scene: Scene) -> None:
    """As a browser does: eight connections, requests in turn; all of them move. wrk looks at every byte."""
    expected = scene.net.directory / "medium"
    size = expected.stat().st_size
    with scene.watched("many"):
        options = ["-t", "2", "-c", "8", "-d", "600s", "--timeout", "60s", "-s", CHECKED]
        program = scene.client("wrk", *options, f"{URL}/medium", "--", expected)
        connections = wait_for_downloads(scene, 8)
        outcomes = {connection: list[Outcome]() for connection in connections}
        for connection in [*connections, *random.Random(4).sample(connections, 4), *connections]:
            outcomes[connection] += scene.moves(connection, 1, seed=len(outcomes[connection]))
            scene.wait_for_payload(connection)
        for connection in connections:
            scene.wait_for_payload(connection, 2 * size)
        program.process.send_signal(signal.SIGINT)
        found = json.loads(program.result().splitlines()[-1])
        assert found["right"] >= len(connections) and not found["wrong"] and not found["errors"], found
    assert scene.opened() == 9  # the first of wrk's is only to see whether it can
    for connection in connections:
        seen = scene.seen(connection)  # wrk resets what is under way when its time is over
        assert seen.handshakes == 1 and seen.migrate_syns >= len(outcomes[connection]) and all(seen.payload.values())


@pytest.mark.parametrize("how", [[], ["-H", "Transfer-Encoding: chunked"]], ids=["length", "chunked"])
def test_an_upload_waits_for_its_answer(scene: Scene, how: list[str]) -> None:
    source = scene.net.directory / "medium"
    with scene.watched("upload"):
        upload = [*how, "--limit-rate", "500k", "-T", str(source), f"{URL}/put/moved"]
        program = scene.client("curl", "-sSN", *upload, "--next", "-sSN", "--limit-rate", "300k", f"{URL}/medium")
        digest = program.digest()
        [connection] = scene.wait_for_connections()
        refused, outcomes = [], []
        while program.runs and (not refused or len(outcomes) < 3):
            outcome = scene.move(connection)
            (outcomes if outcome["outcome"] == "moved" else refused).append(outcome)
            time.sleep(0.02)
        assert digest.result() == sha256(scene, "medium")
    stored = [scene.directory / f"nginx-{host}" / "put" / "moved" for host in ("s1", "s2")]
    [where] = [path for path in stored if path.exists()]
    assert where.read_bytes() == source.read_bytes()
    where.unlink()
    assert {outcome["reason"].split(":")[0] for outcome in refused} == {"HELD"}, refused
    assert len(outcomes) >= 3
    seen = scene.seen(connection)
    assert (seen.handshakes, seen.resets) == (1, 0), seen


def test_a_file_that_differs_is_noticed(scene: Scene) -> None:
    changed = scene.directory / "www-s2" / "big"
    kept = changed.rename(changed.with_name("kept"))
    changed.write_bytes(kept.read_bytes()[::-1])
    try:
        with scene.watched("changed"):
            program = scene.client("curl", "-sSN", "--limit-rate", "10M", "-o", scene.directory / "got", f"{URL}/big")
            [connection] = wait_for_downloads(scene, 1)
            assert scene.move(connection)["outcome"] == "moved"
            _, said = program.process.communicate(timeout=20 * PATIENCE)
            assert program.process.returncode == 56, said  # curl's "connection reset by peer"
    finally:
        kept.rename(changed)
    got = (scene.directory / "got").read_bytes()
    assert got and (scene.net.directory / "big").read_bytes().startswith(got)
    assert "/big: the file differs here" in sidecar_of(scene, "s2")


def test_a_killed_sidecar(scene: Scene, sidecars: list[Program]) -> None:
    """The agent has the connection, and another server takes it."""
    with scene.watched("killed"):
        program = scene.client("curl", "-sSN", "--limit-rate", "10M", f"{URL}/big")
        digest = program.digest()
        [connection] = wait_for_downloads(scene, 1)
        sidecars[0].stop(signal.SIGKILL)
        outcomes = [scene.move(connection)]
        assert digest.result() == sha256(scene, "big")
    scene.judge(connection, outcomes)


def test_a_sidecar_killed_in_an_upload(scene: Scene, sidecars: list[Program]) -> None:
    """Nobody knows what became of it: that is what the client is told, by another server."""
    source = scene.net.directory / "medium"
    with scene.watched("killed-upload"):
        program = scene.client("curl", "-sSN", "--limit-rate", "300k", "-T", source, f"{URL}/put/lost")
        [connection] = scene.wait_for_connections()
        while (outcome := scene.move(connection))["outcome"] == "moved":
            time.sleep(0.01)
        assert outcome["reason"].startswith("HELD"), outcome
        row = scene.connections()[connection]
        sidecars[SERVERS.index(Endpoint.parse(row["current"]).ip)].stop(signal.SIGKILL)
        assert scene.move(connection)["outcome"] == "moved"
        assert "is not known" in program.result()
    assert not [path for host in ("s1", "s2") for path in (scene.directory / f"nginx-{host}" / "put").iterdir()]
