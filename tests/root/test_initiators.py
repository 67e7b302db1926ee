"""Who may want a move: the server that has the connection, before and after one; a drain; the client's own policy.

The operator's moves are in test_migration.py.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from testbed import sandbox
from testbed.nodes import MtcpHost
from tests.root.scene import SERVERS, Outcome, Scene
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(90 if sandbox.inside() else 400)]
MB = 1_000_000
SLOW, FAST = 10.0, 200.0
"""Mbit/s of the links: while commands are given, and when all has been said."""
HELD = 6 * MB
"""Bytes that curl may print before all has been said."""
DOWNLOAD = ["curl", "-sS", f"http://{SERVERS[0]}/big"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("initiators")
    with running(bw=SLOW, big=16 * MB, logs=directory) as net, Scene.of(net, directory) as scene:
        yield scene


def content(scene: Scene) -> str:
    return hashlib.sha256((scene.net.directory / "big").read_bytes()).hexdigest()


def finish(scene: Scene, *downloads: Future[str]) -> None:
    """Wait for the downloads; each must be exact."""
    scene.net.set_bw(FAST)
    for client in scene.clients:
        client.tell()
    assert {download.result(30) for download in downloads} == {content(scene)}
    scene.net.set_bw(SLOW)


def mtcp(host: MtcpHost, *words: str) -> tuple[str, int]:
    """Run a command on a host; what it says, and its status."""
    out, err, status = host.pexec(["mtcp", *words])
    return (out + err).strip(), status


def wait_until_draining(host: MtcpHost) -> None:
    deadline = time.monotonic() + 10
    while json.loads(mtcp(host, "status", "--json")[0])["draining"] != "yes":
        assert time.monotonic() < deadline


def wait_until_on(scene: Scene, connection: str, server: str) -> None:
    deadline = time.monotonic() + 10
    while (row := scene.connections()[connection])["current"].split(":")[0] != server:
        assert time.monotonic() < deadline, f"still on {row['current']}"
        time.sleep(0.01)


def migrations_of(scene: Scene, connection: str) -> list[Outcome]:
    """The client's agent's own record; complete once a later event has been written."""
    time.sleep(0.3)
    lines = map(json.loads, Path(sandbox.RUN, "agent-client.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == "migration" and line["connection"] == connection]


def test_hints_from_whoever_has_the_connection(scene: Scene) -> None:
    """S1 asks to be left, then S2, which has learnt the key with the connection; S1 cannot ask any more."""
    with scene.watched("hints"):
        client = scene.client(*DOWNLOAD)
        digest = client.digest(held=HELD)
        (connection,) = scene.wait_for_connections()
        assert mtcp(scene.net.s1, "hint", connection, "--reason", "attack") == ("", 0)
        wait_until_on(scene, connection, SERVERS[1])
        said, status = mtcp(scene.net.s1, "hint", connection)
        assert status == 1 and said.startswith("mtcp: no connection"), said
        time.sleep(0.3)  # S2 sends
        assert mtcp(scene.net.s2, "hint", connection, "--reason", "overload", "--to", "s1") == ("", 0)
        wait_until_on(scene, connection, SERVERS[0])
        finish(scene, digest)
    outcomes = migrations_of(scene, connection)
    assert [o["initiator"] for o in outcomes] == ["hint: attack", "hint: overload"]
    scene.judge(connection, outcomes)


def test_a_drain_moves_all_and_lets_none_in(scene: Scene) -> None:
    with scene.watched("drain"):
        clients = [scene.client(*DOWNLOAD) for _ in range(4)]
        digests = [client.digest(held=HELD) for client in clients]
        connections = scene.wait_for_connections(4)
        drain = scene.net.s1.popen(["mtcp", "drain", "s1", "--json"], text=True, stdout=-1)
        out, _ = drain.communicate(timeout=20)
        assert drain.returncode == 0, out
        assert json.loads(out) == {"moved": 4, "stayed": 0, "why": []}
        for connection in connections:
            wait_until_on(scene, connection, SERVERS[1])
        finish(scene, *digests)
    for connection in connections:
        scene.judge(connection, migrations_of(scene, connection), connections=4)


def test_a_drain_says_what_stayed_and_why(scene: Scene) -> None:
    """The client's policy declines; and while the drain lasts, nothing may come here."""
    pool = scene.net.pool
    pool.programs["agent-client"].stop()
    pool.start_agent(scene.net.client, "--policy", "manual")
    try:
        with scene.watched("declined"):
            client = scene.client(*DOWNLOAD)
            elsewhere = scene.client(*DOWNLOAD[:-1], f"http://{SERVERS[1]}/big")
            digests = [client.digest(held=HELD), elsewhere.digest(held=HELD)]
            names = scene.wait_for_connections(2)
            rows = scene.connections()
            here, there = sorted(names, key=lambda name: str(rows[name]["current"]))
            drain = scene.net.s1.popen(["mtcp", "drain", "--seconds", "4"], text=True, stdout=-1)
            wait_until_draining(scene.net.s1)
            outcome = scene.move(there, SERVERS[0])
            assert outcome["reason"].startswith("DRAINING"), outcome
            out, _ = drain.communicate(timeout=20)
            assert (drain.returncode, out.splitlines()) == (
                1,
                ["0 moved, 1 stayed", f"  {here}: its client's policy declines hints"],
            )
            assert scene.move(there, SERVERS[0])["outcome"] == "moved"  # the drain is over
            finish(scene, *digests)
    finally:
        pool.programs["agent-client"].stop()
        pool.start_agent(scene.net.client)


def test_the_clients_policy(scene: Scene) -> None:
    """S1's link becomes slow in mid-download; the client's agent leaves by itself."""
    pool = scene.net.pool
    pool.programs["agent-client"].stop()
    pool.start_agent(scene.net.client, "--policy", "throughput:patience=0.5")
    (slowed,) = scene.net.net.linksBetween(scene.net.s1, scene.net.net["sw1"])
    try:
        with scene.watched("policy"):
            client = scene.client(*DOWNLOAD)
            digest = client.digest(held=HELD)
            (connection,) = scene.wait_for_connections()
            time.sleep(0.7)  # at full speed
            slowed.set_bw(SLOW / 20)
            wait_until_on(scene, connection, SERVERS[1])
            finish(scene, digest)
        outcomes = migrations_of(scene, connection)
        assert [o["initiator"] for o in outcomes] == ["policy"]
        scene.judge(connection, outcomes)
    finally:
        slowed.set_bw(SLOW)
        pool.programs["agent-client"].stop()
        pool.start_agent(scene.net.client)


def test_the_policy_changes_for_connections_that_there_are(scene: Scene) -> None:
    """By `mtcp policy`: one that moves at a certain time, one that moves by the bytes; and back to the first one."""
    assert mtcp(scene.net.client, "policy") == ("hints", 0)
    try:
        with scene.watched("changed"):
            client = scene.client(*DOWNLOAD)
            digest = client.digest(held=HELD)
            (connection,) = scene.wait_for_connections()
            at = time.monotonic() + 1
            assert mtcp(scene.net.client, "policy", f"oracle:at={at!r}") == (f"oracle:at={at!r}", 0)
            wait_until_on(scene, connection, SERVERS[1])
            assert mtcp(scene.net.client, "policy", "every:bytes=500000") == ("every:bytes=500000.0", 0)
            wait_until_on(scene, connection, SERVERS[0])
            wait_until_on(scene, connection, SERVERS[1])
            assert mtcp(scene.net.client, "policy", "hints") == ("hints", 0)
            finish(scene, digest)
        outcomes = migrations_of(scene, connection)
        assert len(outcomes) >= 3 and {o["initiator"] for o in outcomes} == {"policy"}
        assert 0 <= outcomes[0]["decided_ns"] / 1e9 - at < 0.1
        scene.judge(connection, outcomes)
    finally:
        mtcp(scene.net.client, "policy", "hints")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["policy", "fastest"], "no policy 'fastest'; there are hints, manual"),
        (["policy", "every", "--policy-file", "/nowhere.toml"], "cannot read the policy file /nowhere.toml"),
        (["drain", "s2"], "this host is s1"),
        (["drain", "--to", "s3"], "'s3' is no other server of the pool; there are s2"),
        (["hint", "10.0.0.100:1"], "no connection of '10.0.0.100:1' here"),
    ],
)
def test_senseless_requests_are_refused(scene: Scene, words: list[str], why: str) -> None:
    said, status = mtcp(scene.net.s1, *words)
    assert status == 1 and why in said, said
    assert len(said.splitlines()) == 1


def test_only_servers_hint_and_drain(scene: Scene) -> None:
    for words in (["drain"], ["hint", "10.0.0.100:1"]):
        said, status = mtcp(scene.net.client, *words)
        assert status == 1 and "is no server of a pool" in said, said
