"""A download that leaves its server by itself: what tests of policies have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from tests.root.scene import SERVERS, Scene
from tests.root.test_initiators import content, migrations_of, wait_until_on

MB = 1_000_000
BIG = 16 * MB
"""Bytes of the file."""
SLOW, FAST = 10.0, 200.0
"""Mbit/s of the links: until it has moved, and to the end."""
HELD = 6 * MB
"""Bytes that the client may print before it has left."""
DOWNLOAD = ["curl", "-sS", f"http://{SERVERS[0]}/big"]


def leaves(
    scene: Scene, name: str, trouble: Callable[[ExitStack], object], initiator: str, download: Sequence[str] = DOWNLOAD
) -> None:
    """A download leaves S1 when that is in trouble, soon, once, and without harm."""
    with scene.watched(name), ExitStack() as stack:
        client = scene.client(*download)
        digest = client.digest(held=HELD)
        (connection,) = scene.wait_for_connections()
        time.sleep(1)  # at full speed
        assert scene.connections()[connection]["current"].startswith(SERVERS[0])
        trouble(stack)
        wait_until_on(scene, connection, SERVERS[1])
        stack.close()
        scene.net.set_bw(FAST)
        client.tell()
        assert digest.result(40) == content(scene)
        scene.net.set_bw(SLOW)
    outcomes = migrations_of(scene, connection)
    assert [o["initiator"] for o in outcomes] == [initiator]
    scene.judge(connection, outcomes)
