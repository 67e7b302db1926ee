"""Live connections of unmodified programs move back and forth: every byte right, nothing noticed, captures agree."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.processes import checked
from testbed.strict import compile_strict
from tests.root.scene import SERVERS, UNTIL_TOLD, Outcome, Scene, Seen
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 600)]

SEED = int(os.environ.get("MTCP_TEST_SEED", "1"))
MBITS = 400
PER_SECOND = MBITS * 125_000
MOVES = 20
HELD = 10_000_000
"""Bytes that curl may print before the moves are over."""
STREAM, COUNTER, ASYNC = "7001", "7002", "7003"
CLIENTS = Path(__file__).parents[1] / "clients"
KEPT = os.environ.get("MTCP_TEST_KEEP")
"""Directory for captures and logs; without it they go with the test."""
MEASURED = os.environ.get("MTCP_TEST_FIGURES")
"""File to which the figures of each connection are appended, as JSON lines."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = Path(KEPT) if KEPT else tmp_path_factory.mktemp("scene")
    with running(bw=MBITS, big=50_000_000, logs=directory) as net, Scene.of(net, directory) as scene:
        scene.service("stream", "--port", STREAM)
        scene.service("stream", "--port", ASYNC, "--asyncio")
        scene.service("counter", "--port", COUNTER)
        yield scene


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


def note(test: str, seen: Seen, outcomes: list[Outcome], **figures: float) -> None:
    if MEASURED:
        moved = sorted((o["committed_ns"] - o["decided_ns"]) / 1e6 for o in outcomes)
        row = {"test": test, "moves": len(moved), "gap_ms": seen.max_gap_ms, "commit_ms": moved, **figures}
        row["move_gap_ms"] = [round(seen.gap_ms(outcome), 2) for outcome in outcomes]
        with Path(MEASURED).open("a") as file:
            file.write(json.dumps(row) + "\n")


@pytest.mark.parametrize("port", [STREAM, ASYNC], ids=["threads", "asyncio"])
@pytest.mark.parametrize("mode", ["recv", "waitall", "timeout", "poll", "select", "epoll", "epoll-et"])
def test_download(scene: Scene, strict: Path, mode: str, port: str) -> None:
    with scene.watched("download"):
        client = scene.client(strict, mode, SERVERS[0], port, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        report = client.strict()
    seen = scene.judge(connection, outcomes)
    note(f"download-{mode}-{port}", seen, outcomes, client_gap_ms=report["max_gap_ms"])


def test_asyncio_client(scene: Scene) -> None:
    with scene.watched("asyncio"):
        client = scene.client(sys.executable, CLIENTS / "asyncio_download.py", SERVERS[0], STREAM)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        client.result()
    note("asyncio-client", scene.judge(connection, outcomes), outcomes)


def test_paced_download(scene: Scene, strict: Path) -> None:
    """A stream with pauses, as of audio: 4 kB every 2 ms."""
    with scene.watched("paced"):
        client = scene.client(strict, "-c", "4000", "-i", "2000", "recv", SERVERS[0], STREAM, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        report = client.strict()
    note("paced", scene.judge(connection, outcomes), outcomes, client_gap_ms=report["max_gap_ms"])


@pytest.mark.parametrize("port", [STREAM, ASYNC], ids=["threads", "asyncio"])
def test_upload(scene: Scene, strict: Path, port: str) -> None:
    with scene.watched("upload"):
        client = scene.client(strict, "-c", "300000", "upload", SERVERS[0], port, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        client.strict()
    note(f"upload-{port}", scene.judge(connection, outcomes), outcomes)


def test_upload_that_fills_the_servers_buffer(scene: Scene, strict: Path) -> None:
    """Faster than the server reads: megabytes of receive queue move along, and the window was shut."""
    scene.net.set_bw(None)
    try:
        with scene.watched("full"):
            client = scene.client(strict, "-c", "300000", "upload", SERVERS[0], STREAM, UNTIL_TOLD)
            [connection] = scene.wait_for_connections()
            outcomes = scene.moves(connection, MOVES // 2, SEED, pause=(0.0, 0.04))
            client.tell()
            client.strict()
    finally:
        scene.net.set_bw(MBITS)
    note("upload-full", scene.judge(connection, outcomes), outcomes)


def test_paced_upload(scene: Scene, strict: Path) -> None:
    with scene.watched("paced-upload"):
        client = scene.client(strict, "-c", "4000", "-i", "2000", "upload", SERVERS[0], STREAM, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        client.strict()
    note("paced-upload", scene.judge(connection, outcomes), outcomes)


@pytest.mark.parametrize("port", [STREAM, ASYNC], ids=["threads", "asyncio"])
def test_echo_both_ways_at_once(scene: Scene, strict: Path, port: str) -> None:
    with scene.watched("echo"):
        client = scene.client(strict, "threads", SERVERS[0], port, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        report = client.strict()
    note(f"echo-{port}", scene.judge(connection, outcomes), outcomes, client_gap_ms=report["max_gap_ms"])


@pytest.mark.parametrize("mode", ["recv", "epoll-et", "threads", "upload"])
def test_moves_in_quick_succession(scene: Scene, strict: Path, mode: str) -> None:
    """So quick that the links still hold what a server sent before it lost the connection and got it back."""
    with scene.watched(f"quick-{mode}"):
        client = scene.client(strict, mode, SERVERS[0], STREAM, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, 50, SEED, pause=(0.0, 0.002))
        client.tell()
        client.strict()
    note(f"quick-{mode}", scene.judge(connection, outcomes), outcomes)


def test_two_connections_of_one_process_at_once(scene: Scene, strict: Path) -> None:
    with scene.watched("two"):
        client = scene.client(strict, "-n", "2", "recv", SERVERS[0], STREAM, UNTIL_TOLD)
        both = scene.wait_for_connections(2)
        outcomes: dict[str, list[Outcome]] = {connection: [] for connection in both}
        for _ in range(MOVES // 2):
            targets = {c: scene.other_server(c) for c in both}
            futures = {c: scene.asking({"op": "migrate", "connection": c, "to": targets[c]}) for c in both}
            for connection, future in futures.items():
                outcomes[connection].append(future.result(30))
            time.sleep(0.01)
        client.tell()
        client.strict()
    for connection in both:
        note("two", scene.judge(connection, outcomes[connection], connections=2), outcomes[connection])


def test_every_byte_is_counted_once(scene: Scene) -> None:
    with scene.watched("counter"):
        arguments = [SERVERS[0], COUNTER, UNTIL_TOLD, str(SEED)]
        client = scene.client(sys.executable, CLIENTS / "counting.py", *arguments)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        client.result()
    note("counter", scene.judge(connection, outcomes), outcomes)


def test_idle_connection_moves_and_is_then_used(scene: Scene, strict: Path) -> None:
    with scene.watched("idle"):
        client = scene.client(strict, "turns", SERVERS[0], STREAM, "1000")
        [connection] = scene.wait_for_connections()
        outcomes = []
        for turn in range(MOVES):
            outcomes += scene.moves(connection, turn % 3, SEED + turn)
            client.tell()
            assert client.line() == "turn"
        client.strict()
    note("idle", scene.judge(connection, outcomes), outcomes)


@pytest.mark.parametrize("mode", ["recv", "epoll-et"])
def test_moves_before_the_application_has_read_anything(scene: Scene, strict: Path, mode: str) -> None:
    with scene.watched("unread"):
        client = scene.client(strict, "-g", mode, SERVERS[0], STREAM, str(PER_SECOND // 4))
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, 5, SEED)
        client.tell()
        client.strict()
    note("unread", scene.judge(connection, outcomes), outcomes)


def test_moves_although_the_old_application_hangs(scene: Scene, strict: Path) -> None:
    hanging = next(p for p in scene.programs if p.name.endswith("s1")).process
    with scene.watched("hanging"):
        client = scene.client(strict, "upload", SERVERS[0], STREAM, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        time.sleep(0.1)
        hanging.send_signal(signal.SIGSTOP)
        try:
            outcomes = [scene.move(connection, SERVERS[1])]
            client.tell()
            client.strict()
        finally:
            hanging.send_signal(signal.SIGCONT)
    scene.judge(connection, outcomes)


def test_moves_although_the_old_application_was_killed(scene: Scene, strict: Path) -> None:
    """The agent holds socket and capsule: its connection outlives the process."""
    port = 7011
    scene.service("stream", "--port", str(port))
    doomed = scene.programs[-2].process
    with scene.watched("killed"):
        client = scene.client(strict, "upload", SERVERS[0], str(port), UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        time.sleep(0.1)
        doomed.kill()
        doomed.wait()
        outcomes = [scene.move(connection, SERVERS[1])]
        client.tell()
        client.strict()
    scene.judge(connection, outcomes)


def test_stays_while_the_control_network_is_cut_and_moves_when_it_is_back(scene: Scene, strict: Path) -> None:
    control = scene.net.s1.intf("s1-eth1").name
    with scene.watched("cut"):
        client = scene.client(strict, "-i", "1000", "-c", "10000", "recv", SERVERS[0], STREAM, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        checked(scene.net.s1, "ip", "link", "set", control, "down")
        try:
            refused = scene.move(connection, SERVERS[1])
        finally:
            checked(scene.net.s1, "ip", "link", "set", control, "up")
        assert refused["outcome"] == "kept"
        outcomes = scene.moves(connection, 5, seed=11)
        client.tell()
        client.strict()
    scene.judge(connection, outcomes)


def test_two_requests_at_once_make_one_move(scene: Scene, strict: Path) -> None:
    with scene.watched("twice"):
        client = scene.client(strict, "recv", SERVERS[0], STREAM, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = []
        for _ in range(MOVES):
            request = {"op": "migrate", "connection": connection, "to": scene.other_server(connection)}
            futures = [scene.asking(request), scene.asking(request)]
            refusals = [str(f.exception(30)) for f in futures if f.exception(30)]
            outcomes += [f.result() for f in futures if not f.exception()]
            assert len(refusals) == 1 and ("under way" in refusals[0] or "already" in refusals[0]), refusals
        client.tell()
        client.strict()
    assert len(outcomes) == MOVES
    scene.judge(connection, outcomes)


def test_http_client_with_keep_alive(scene: Scene) -> None:
    with scene.watched("keepalive"):
        arguments = [SERVERS[0], str(scene.net.directory), str(SEED)]
        client = scene.client(sys.executable, CLIENTS / "http_keepalive.py", *arguments)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        client.result()
    note("keepalive", scene.judge(connection, outcomes), outcomes)


def test_curl_with_several_files(scene: Scene) -> None:
    names = ["small", "big", "medium", "small", "medium"]
    with scene.watched("curl"):
        client = scene.client("curl", "-sS", *(f"http://s1/{name}" for name in names), "-o", "-", "-o", "-")
        output = client.digest(held=HELD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, MOVES, SEED)
        client.tell()
        assert output.result(40) == digest(*((scene.net.directory / name).read_bytes() for name in names))
    note("curl", scene.judge(connection, outcomes), outcomes)


@pytest.mark.parametrize("option", ["-r1000001-40000000", "-C20000000", "-r-30000000"])
def test_curl_with_a_range(scene: Scene, option: str) -> None:
    whole = (scene.net.directory / "big").read_bytes()
    parts = {"-r1000001-40000000": whole[1000001:40000001], "-C20000000": whole[20000000:]}
    with scene.watched("range"):
        client = scene.client("curl", "-sS", option, "http://s1/big")
        output = client.digest(held=HELD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, 10, SEED)
        client.tell()
        assert output.result(40) == digest(parts.get(option, whole[-30000000:]))
    note("range", scene.judge(connection, outcomes), outcomes)


def digest(*parts: bytes) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()
