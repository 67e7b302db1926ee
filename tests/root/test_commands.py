"""What `mtcp` says on a live host when something is wrong: one line, a status other than 0, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mtcp.agent.daemon import FIRST
from mtcp.linux.privileges import Capability
from testbed import sandbox
from testbed.processes import Program
from tests.root.scene import ClientProgram, Scene
from topologies.two_servers import ADDRESSES, CONTROL, CONTROL_PORT, running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 300)]

MTCP = Path(sys.executable).with_name("mtcp")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
DOWNLOAD = ["curl", "-sS", "--limit-rate", "100k", "-o", "/dev/null", "http://s1/big"]
OCCUPANT = """
import socket, sys
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as s:
    print("has it", flush=True)
    while True:
        s.accept()
"""
MPTCP = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.connect((sys.argv[1], 80))
s.sendall(b"GET /medium HTTP/1.1\\r\\nHost: s1\\r\\n\\r\\n")
print("asked", flush=True)
sys.stdin.readline()
data = b""
while b"\\r\\n\\r\\n" not in data or len(data) < data.index(b"\\r\\n\\r\\n") + 4 + 1000000:
    got = s.recv(65536)
    assert got, "early end"
    data += got
assert data.endswith(open(sys.argv[2], "rb").read())
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("commands")
    with running(big=20_000_000, logs=directory) as net, Scene.of(net, directory) as scene:
        yield scene


@pytest.fixture
def download(scene: Scene | None) -> Iterator[ClientProgram | None]:
    """A slow one, which the client's agent knows."""
    if scene is None:
        yield None
        return
    scene.known = frozenset(scene.connections())
    program = scene.client(*DOWNLOAD)
    scene.wait_for_connections()
    yield program
    program.process.kill()
    program.process.wait()


def on(host: Any, *words: str | Path, code: int = 1) -> str:
    """Run a command that must fail; its one line."""
    out, err, status = host.pexec([str(word) for word in words])
    assert status == code, (status, out, err)
    lines: list[str] = (out + err).splitlines()
    assert len(lines) == 1 and lines[0].startswith("mtcp: "), (out, err)
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "nowhere"], "unknown server 'nowhere'"),
        (["--to", "10.0.0.77"], "10.0.0.77 is not a server of this connection's pool; it has offered 10.0.0.2"),
        (["--to", "s1"], "10.0.0.1:80 has this connection already"),
        (["1", "--to", "s2"], "no migratable connection '1' here"),
        (["10.0.0.100:1", "--to", "s2"], "no migratable connection '10.0.0.100:1' here"),
    ],
    ids=["name", "address", "same", "port", "connection"],
)
def test_migrate_what_or_where_is_not_there(
    scene: Scene, download: ClientProgram, arguments: list[str], message: str
) -> None:
    assert message in on(scene.net.client, MTCP, "migrate", *arguments)
    assert download.runs


def test_migrate_without_connection(scene: Scene) -> None:
    deadline = time.monotonic() + 10
    while scene.connections() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "which connection? This host has none" in on(scene.net.client, MTCP, "migrate", "--to", "s2")


def test_migrate_one_of_two_without_saying_which(scene: Scene, download: ClientProgram) -> None:
    scene.known = frozenset(scene.connections())
    second = scene.client(*DOWNLOAD)
    scene.wait_for_connections()
    assert "2: name one by its port" in on(scene.net.client, MTCP, "migrate", "--to", "s2")
    second.process.kill()


def test_migrate_on_a_server(scene: Scene, download: ClientProgram) -> None:
    assert "which connection?" in on(scene.net.s1, MTCP, "migrate", "--to", "s2")


@pytest.mark.parametrize(
    "command", [["ls"], ["status"], ["watch"], ["migrate", "--to", "127.0.0.1"]], ids=lambda words: words[0]
)
def test_no_agent(scene: Scene, command: list[str]) -> None:
    assert "no mtcp agent runs on this host" in on(scene.net.net["sw1"], MTCP, *command)


def test_second_agent(scene: Scene) -> None:
    before = left_behind()
    line = on(scene.net.client, *agent(scene, scene.net.client))
    assert "an mtcp agent runs on this host already" in line
    assert left_behind() == before
    status = scene.ask({"op": "status"})
    assert status["name"] == "client"
    assert {"migrate taken", "migrate over_source_limit", "migrate over_limit"} <= status["control_segments"].keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("[[server", "pool"),
        ('[[server]]\nname = "s9"\n', "needs name, service"),
        ("", "names no [[server]]"),
    ],
    ids=["missing", "broken", "incomplete", "empty"],
)
def test_bad_pool_file(scene: Scene, tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "pool.toml"
    if text is not None:
        file.write_text(text)
    assert message in on(scene.net.client, *agent(scene, scene.net.client), "--pool", file)


def test_occupied_service_port(scene: Scene) -> None:
    command = [sys.executable, "-m", "testbed.services.files", "--port", "80"]
    out, err, status = scene.net.s1.pexec(command)
    assert status == 1
    assert (out + err).strip() == "files: cannot listen on port 80: [Errno 98] Address already in use"


def test_service_without_agent(scene: Scene) -> None:
    out, err, status = scene.net.net["sw1"].pexec([sys.executable, "-m", "testbed.services.files", "--port", "81"])
    assert status == 1 and (out + err).startswith("files: cannot listen on port 81: no mtcp agent runs on this host")


def test_not_root(scene: Scene, download: ClientProgram) -> None:
    client = scene.net.client
    assert "only root and the agent's own user may move" in on(client, *NOBODY, MTCP, "migrate", "--to", "s2")
    before = left_behind()
    line = on(scene.net.net["sw1"], *NOBODY, MTCP, "agent", "--name", "x", "--interface", "lo")
    assert "root" in line
    assert left_behind() == before
    assert download.runs


def test_mptcp_client(scene: Scene) -> None:
    """It falls back to TCP, and stays where it is: once moved, its kernel would lose count of the stream."""
    client = scene.net.client
    client.set_sysctls({"net.mptcp.enabled": "1"})
    try:
        program = scene.client(sys.executable, "-c", MPTCP, ADDRESSES["s1"], scene.net.directory / "medium")
        assert program.line() == "asked"
        assert on(client, MTCP, "migrate", "--to", "s2")
        program.tell()
        program.result()
    finally:
        client.set_sysctls({"net.mptcp.enabled": "0"})


def test_occupied_control_port(scene: Scene) -> None:
    """Last: s2's file server does not register with an agent that was started after it."""
    pool = scene.net.pool
    pool.programs["agent-s2"].stop()
    command = [sys.executable, "-c", OCCUPANT, CONTROL["s2"], str(CONTROL_PORT)]
    other = Program(scene.net.s2, command, scene.directory / "occupant.log")
    try:
        other.wait_for("has it")
        before = left_behind()
        line = on(scene.net.s2, *agent(scene, scene.net.s2), "--pool", pool.file)
        assert "cannot listen on the control address" in line
        assert left_behind() == before
    finally:
        other.stop()
        pool.start_agent(scene.net.s2)


def agent(scene: Scene, host: Any) -> list[str | Path]:
    """The command that starts the agent of `host`."""
    name = host.name
    return [MTCP, "agent", "--name", name, "--cgroup", host.cgroup, "--interface", host.defaultIntf().name]


def left_behind() -> set[str]:
    """Processes, pins and control groups of the sandbox."""
    processes = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True).stdout.splitlines()
    found = {line.strip() for line in processes if "mtcp" in line and "ps -eo" not in line}
    return found | {str(path) for root in (sandbox.BPFFS, sandbox.CGROUP) for path in root.rglob("*") if path.is_dir()}


def test_agents_come_before_those_who_overload_their_hosts(scene: Scene) -> None:
    for name in ("agent-client", "agent-s1", "agent-s2"):
        assert os.getpriority(os.PRIO_PROCESS, scene.net.pool.programs[name].process.pid) == FIRST


def test_agents_keep_only_the_privileges_that_they_need(scene: Scene) -> None:
    """And what they do with them still works: the other tests here move connections with such agents."""
    pool = scene.net.pool
    kept = sum(1 << capability for capability in Capability)
    for name in ("agent-client", "agent-s1", "agent-s2"):
        pid = pool.programs[name].process.pid
        status = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        sets = {key: int(status[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert sets == {"CapInh": 0, "CapPrm": kept, "CapEff": kept, "CapBnd": kept, "CapAmb": 0}, (name, sets)
        assert status["NoNewPrivs"] == "1"
