"""What a broken or hostile application hands its agent: refused with a line; the agent, and the connection, live on."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtcp.agent import local
from mtcp.capsule import Capsule
from testbed import sandbox
from testbed.processes import Program
from tests.root.corners import CLIENTS, held, in_network_of, serve, stage, wait_until
from tests.root.scene import SERVERS, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 600)]

BROKEN, LARGE = "7103", "7104"
HUGE = 1 << 30
EDGES = (1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63, (1 << 64) - 1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    for scene in stage(tmp_path_factory):
        if scene is not None:
            serve(scene, "broken.py", "--port", BROKEN)
            serve(scene, "broken.py", "--port", LARGE, "--state-max", str(HUGE))
        yield scene


def agent(scene: Scene, host: str) -> Program:
    return scene.net.pool.programs[f"agent-{host}"]


def pid_of_agent(scene: Scene, host: str) -> int:
    return agent(scene, host).process.pid


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def peak_kilobytes(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def try_to_move(scene: Scene, how: str, port: str = BROKEN) -> str:
    """The reason for which the connection stays; "" when it moved."""
    scene.known = frozenset(scene.connections())
    client = scene.client(sys.executable, CLIENTS / "lines.py", SERVERS[0], port)
    [connection] = scene.wait_for_connections()
    client.tell(how)
    assert client.line() == "ruined"
    outcome = scene.move(connection, SERVERS[1])
    if outcome["outcome"] == "kept":
        client.tell("still here")
        assert client.line() == "still here"
    assert agent(scene, "s1").process.poll() is None
    client.process.stdin.close()  # type: ignore[union-attr]
    client.process.wait(10)
    return str(outcome["reason"])


@pytest.mark.parametrize("field", ["slot_rcv_offset", "slot_snd_offset"])
def test_offsets(scene: Scene, field: str) -> None:
    """The first byte of a stream that the server has not read, or not written."""
    for number in EDGES[1:]:
        assert try_to_move(scene, f"{field} {number}").split(":")[0] in ("INVALID_STATE", "LOG_OVERFLOW", "TOO_LARGE")


@pytest.mark.parametrize("field", ["read_offset", "write_offset", "swallow", "ended", "magic", "log_size", "state_max"])
def test_fields_that_are_not_the_agents(scene: Scene, field: str) -> None:
    """They do not matter to it: the kernel knows better, or it has read them once."""
    for number in EDGES:
        assert try_to_move(scene, f"{field} {number}") == ""


def test_lengths(scene: Scene) -> None:
    for number in ((1 << 20) + 1, 1 << 31, (1 << 32) - 1):
        assert try_to_move(scene, f"slot_length {number}").startswith("INVALID_STATE")
    assert try_to_move(scene, "overflow 7").startswith("LOG_OVERFLOW")
    assert try_to_move(scene, "fence 77") == ""
    assert try_to_move(scene, "current 77") == ""


def test_a_stream_said_to_be_ended_that_is_not(scene: Scene) -> None:
    assert try_to_move(scene, "slot_bits 1") == ""


def test_noise(scene: Scene) -> None:
    for _ in range(20):
        try_to_move(scene, "noise")


def test_a_state_of_a_gigabyte_is_not_copied(scene: Scene) -> None:
    pid = pid_of_agent(scene, "s1")
    before = peak_kilobytes(pid)
    assert try_to_move(scene, f"slot_length {HUGE}", LARGE).startswith("TOO_LARGE")
    assert peak_kilobytes(pid) - before < 50_000


def test_messages(scene: Scene) -> None:
    """What the agent does not understand is answered with an error; descriptors that come along are closed."""
    pid = pid_of_agent(scene, "s1")
    read, write = os.pipe()
    capsule = Capsule.create()
    unix, _other = socket.socketpair()
    udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
    file = os.open("/dev/null", os.O_RDWR)
    foreign = socket.create_server(("127.0.0.1", 0))  # of another network namespace

    def nonsense() -> None:
        bound = socket.create_server(("127.0.0.1", 0))
        messages: list[tuple[object, list[int]]] = [
            ({"op": "attach"}, []),
            ({"op": "attach"}, [read]),
            ({"op": "attach"}, [file, file, file]),
            ({"op": "attach"}, [tcp.fileno(), capsule.fd, file]),
            ({"op": "attach"}, [tcp.fileno(), file, read]),
            ({"op": "attach"}, [unix.fileno(), capsule.fd, read]),
            ({"op": "attach"}, [udp.fileno(), capsule.fd, read]),
            ({"op": "attach"}, [tcp.fileno(), capsule.fd, read]),
            ({"op": "listen"}, [file]),
            ({"op": "listen", "port": 80}, []),
            ({"op": "listen", "port": 80}, [tcp.fileno()]),  # not bound: anybody might say so
            ({"op": "listen"}, [udp.fileno()]),
            ({"op": "listen"}, [foreign.fileno()]),
            ({"op": "listen"}, [bound.fileno(), bound.fileno()]),
            ({"op": "listen", "log_size": 1 << 40}, [bound.fileno()]),
            ({"op": "listen", "state_max": -1}, [bound.fileno()]),
            ({"op": "listen", "log_size": "much"}, [bound.fileno()]),
            ({"op": ["ls"]}, [file, file]),
            ({"op": None}, []),
            ({}, []),
            ({"op": "migrate"}, []),
            ({"op": "migrate", "to": {}}, []),
        ]
        with local.connect() as channel:
            channel.settimeout(5)
            for message, fds in messages:
                socket.send_fds(channel, [json.dumps(message).encode()], fds)
                answer, _ = local.receive(channel)
                assert list(answer) == ["error"], (message, answer)
            channel.send(b"no JSON")
            with pytest.raises(EOFError):
                local.receive(channel)
        bound.close()

    in_network_of(scene.net.s1, nonsense)
    before = descriptors(pid)
    in_network_of(scene.net.s1, nonsense)
    wait_until(lambda: descriptors(pid) <= before, "no descriptor is left open")
    assert "Traceback" not in agent(scene, "s1").output()
    os.close(read), os.close(write), os.close(file)
    capsule.close()
    for sock in (unix, _other, udp, tcp, foreign):
        sock.close()


def test_the_agents_know_nothing_any_more_and_have_not_complained(scene: Scene) -> None:
    for host in (scene.net.s1, scene.net.s2):
        wait_until(lambda host=host: not held(host), "all connections are forgotten")
        assert "Traceback" not in agent(scene, host.name).output()
