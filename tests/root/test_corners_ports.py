"""One local port for several connections: what is free for the kernel may be taken on the wire, and the reverse."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from mtcp.errors import MtcpError
from testbed import sandbox
from tests.root.corners import CLIENTS, STREAM, stage, wait_until
from tests.root.scene import SERVERS, ClientProgram, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(100 if sandbox.inside() else 600)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    yield from stage(tmp_path_factory)


def told(client: ClientProgram, line: str) -> str:
    client.tell(line)
    return client.line()


def of(scene: Scene, port: int, server: str) -> str:
    """The connection's name for the agent, once it knows where it may go."""
    name = f"10.0.0.100:{port}"

    def known() -> bool:
        rows = scene.connections().values()
        return any(r["connection"] == name and r["server"] == f"{server}:{STREAM}" and r["others"] for r in rows)

    wait_until(known, f"{name} to {server} is known")
    return name


def test_a_port_whose_connection_has_moved_to_where_another_wants_to_go(scene: Scene) -> None:
    """On the wire the second would be the first: it does not come about, and the first is unharmed.

    Not even when the first has moved away again: what S2 has sent for it may still be on its way.
    """
    port = 45001
    client = scene.client(sys.executable, CLIENTS / "ports.py", str(port))
    assert told(client, f"open {SERVERS[0]} {STREAM}") == "ok"
    connection = of(scene, port, SERVERS[0])
    assert scene.move(connection, SERVERS[1])["outcome"] == "moved"
    assert told(client, "say 0") == "ok"
    assert told(client, f"open {SERVERS[1]} {STREAM}") == "TimeoutError"
    assert told(client, "say 0") == "ok"
    assert scene.move(connection, SERVERS[0])["outcome"] == "moved"
    assert told(client, "say 0") == "ok"
    assert told(client, f"open {SERVERS[1]} {STREAM}") == "TimeoutError"
    assert told(client, "say 0") == "ok"


def test_a_connection_does_not_move_where_its_port_is_taken(scene: Scene) -> None:
    port = 45002
    client = scene.client(sys.executable, CLIENTS / "ports.py", str(port))
    assert told(client, f"open {SERVERS[0]} {STREAM}") == "ok"
    of(scene, port, SERVERS[0])
    assert told(client, f"open {SERVERS[1]} {STREAM}") == "ok"
    name = of(scene, port, SERVERS[1])
    for to in SERVERS:
        try:
            outcome = scene.move(name, to)["outcome"]
        except MtcpError:
            outcome = "kept"
        assert outcome == "kept"
    assert told(client, "say 0") == told(client, "say 1") == "ok"


def test_the_port_of_a_moved_connection_is_used_again(scene: Scene) -> None:
    """At once after its end, and moved in its turn."""
    port = 45003
    client = scene.client(sys.executable, CLIENTS / "ports.py", str(port))
    scene.net.client.set_sysctls({"net.ipv4.tcp_tw_reuse": "1"})
    for turn in range(3):

        def opened() -> bool:
            return told(client, f"open {SERVERS[0]} {STREAM}") == "ok"

        wait_until(opened, "the port can be used again", 20)
        connection = of(scene, port, SERVERS[0])
        assert told(client, f"say {turn}") == "ok"
        wait_until(lambda connection=connection: moved(scene, connection), "what the former one has left is forgotten")
        assert told(client, f"say {turn}") == "ok"
        assert told(client, f"close {turn}") == "ok"


def moved(scene: Scene, connection: str) -> bool:
    """Whether it has gone to S2 now; a former connection may have these addresses still."""
    try:
        return bool(scene.move(connection, SERVERS[1])["outcome"] == "moved")
    except MtcpError as error:
        assert "another connection" in str(error), error
        return False
