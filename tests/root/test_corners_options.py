"""Connections without the options, or the offloads, that modern ones have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import sandbox
from testbed.processes import checked
from testbed.strict import compile_strict
from tests.root.corners import STREAM, stage
from tests.root.scene import SERVERS, UNTIL_TOLD, Scene

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 900)]

TIMESTAMPS, SACK, SCALING = (f"net.ipv4.tcp_{name}" for name in ("timestamps", "sack", "window_scaling"))
MODES = ["recv", "upload", "threads"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    yield from stage(tmp_path_factory)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_strict(tmp_path_factory.mktemp("strict"))


def moves(scene: Scene, strict: Path, mode: str) -> None:
    with scene.watched(mode):
        client = scene.client(strict, mode, SERVERS[0], STREAM, UNTIL_TOLD)
        [connection] = scene.wait_for_connections()
        outcomes = scene.moves(connection, 5, seed=1)
        client.tell()
        client.strict()
    scene.judge(connection, outcomes)


@contextlib.contextmanager
def without(host: Any, *names: str) -> Iterator[None]:
    host.set_sysctls(dict.fromkeys(names, "0"))
    try:
        yield
    finally:
        host.set_sysctls(dict.fromkeys(names, "1"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("names", [(TIMESTAMPS,), (SACK,), (SCALING,), (TIMESTAMPS, SACK, SCALING)])
def test_the_client_does_not_offer(scene: Scene, strict: Path, names: tuple[str, ...], mode: str) -> None:
    with without(scene.net.client, *names):
        moves(scene, strict, mode)


@pytest.mark.parametrize("host", ["s1", "s2"])
def test_one_of_the_servers_would_not_accept(scene: Scene, strict: Path, host: str) -> None:
    """What was agreed with the first server holds at the second, too."""
    with without(getattr(scene.net, host), TIMESTAMPS, SACK, SCALING):
        moves(scene, strict, "threads")


@pytest.mark.parametrize("mode", MODES)
def test_without_offloads(scene: Scene, strict: Path, mode: str) -> None:
    """Every segment for itself: no GSO, TSO, GRO."""
    hosts = (scene.net.client, scene.net.s1, scene.net.s2)

    def switch(state: str) -> None:
        for host in hosts:
            what = [word for name in ("gso", "tso", "gro") for word in (name, state)]
            checked(host, "ethtool", "-K", host.defaultIntf().name, *what)

    switch("off")
    try:
        moves(scene, strict, mode)
    finally:
        switch("on")
