"""Clients' policies at work: what agents see of real connections, and what comes of it.

What each policy does with what it sees is in tests/unit; `throughput` is in test_initiators.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from testbed import sandbox
from tests.root.leaving import BIG, DOWNLOAD, FAST, SLOW, leaves
from tests.root.scene import Scene
from tests.root.test_initiators import mtcp
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(90 if sandbox.inside() else 900)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("policies")
    with running(bw=SLOW, rtt=4, loss=0, big=BIG, logs=directory) as net, Scene.of(net, directory) as scene:
        yield scene


@contextmanager
def policy(scene: Scene, spec: str) -> Iterator[None]:
    """The client's, for a while."""
    assert mtcp(scene.net.client, "policy", spec)[1] == 0
    try:
        yield
    finally:
        mtcp(scene.net.client, "policy", "hints")


def test_a_client_goes_where_it_is_nearer(scene: Scene) -> None:
    def farther(stack: ExitStack) -> None:
        scene.net.set("s1", "sw1", delay=40)
        stack.callback(scene.net.set, "s1", "sw1", delay=0.5)

    # Without a queue of its own making, which would look like distance.
    unhurried = [*DOWNLOAD, "--limit-rate", "2M"]
    scene.net.set_bw(FAST)
    with policy(scene, "best:patience=0.5"):
        leaves(scene, "nearer", farther, "policy", unhurried)


def test_a_client_leaves_a_path_that_loses(scene: Scene) -> None:
    def lossy(stack: ExitStack) -> None:
        scene.net.set("s1", "sw1", loss=10)
        stack.callback(scene.net.set, "s1", "sw1", loss=0)

    with policy(scene, "loss"):
        leaves(scene, "lossy", lossy, "policy")
