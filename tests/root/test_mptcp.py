"""Kernel MPTCP with a second path to the same server: where the data really goes, by the client's capture."""

from __future__ import annotations

import contextlib
import math
import signal
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapReader

from testbed import mptcp, sandbox
from testbed.capture import Capture
from testbed.processes import Program
from tests.root.http_client import Client, eventually, received, sha256
from tests.root.two_hosts import Segment, shape
from topologies.dumbbell import SECOND_ADDRESS, Running, running

pytestmark = pytest.mark.sandbox(shared=True)

S1 = "10.0.1.1"
MPTCP, JOIN = 30, 1
"""The option's kind, and the subtype of MP_JOIN (RFC 8684)."""
SYN, ACK = 0x02, 0x10


@dataclass
class Arrival:
    """A segment that the client has received."""

    at: float
    """Seconds, CLOCK_REALTIME."""
    source: str
    syn: bool
    joins: bool
    payload: int


class Scene:
    def __init__(self, net: Running, directory: Path) -> None:
        self.net, self.directory = net, directory
        self.s1 = net.servers[0]
        self.serve()

    def serve(self) -> None:
        command = [sys.executable, "-m", "testbed.services.files", "--mptcp", "--directory", self.net.directory]
        self.files = Program(self.s1, command, self.directory / f"files-{time.monotonic_ns()}.log")
        self.files.wait_for("listening")

    @contextlib.contextmanager
    def download(self, backup: bool = False) -> Iterator[Download]:
        """A download over both paths, which has begun on the first."""
        mptcp.set_paths(self.s1, [SECOND_ADDRESS], backup=backup)
        mptcp.set_paths(self.net.client, accept=1)
        pcap = self.directory / f"{time.monotonic_ns()}.pcap"
        with Capture(self.net.client, pcap):
            words = "download", "--connect", "mptcp"
            download = Download(Client(self.net.client, self.directory, {"s1": S1}, *words, seconds=60), pcap)
            eventually(lambda: self.received(S1) > 1_000_000)
            yield download
            download.end()

    def received(self, address: str) -> int:
        return received(self.net.client, address)

    @contextlib.contextmanager
    def dead_upper_path(self) -> Iterator[None]:
        self.net.set("sw1", "sw2", loss=100)
        try:
            yield
        finally:
            self.net.set("sw1", "sw2", loss=0)


class Download:
    def __init__(self, client: Client, pcap: Path) -> None:
        self.client, self.told = client, dict[str, Any]()
        self._pcap = pcap

    def end(self) -> None:
        """Now, unless it has ended."""
        self.told = self.told or self.client.end()

    def wait(self) -> None:
        self.told = self.told or self.client.wait()

    def arrivals(self) -> list[Arrival]:
        """At the client, after the end."""
        found = []
        for frame, meta in RawPcapReader(str(self._pcap)):
            segment = Segment(frame)
            length = struct.unpack_from("!H", frame, 16)[0] - 40 - len(segment.options)
            ours = [o for o in shape(segment.options) if o[0] == MPTCP and o[2] >> 4 == JOIN]
            if segment.destination == "10.0.0.100":
                at = meta.sec + meta.usec / 1e9
                found.append(Arrival(at, segment.source, bool(segment.flags & SYN), bool(ours), length))
        return found


def payload(arrivals: list[Arrival], source: str, since: float = 0.0, until: float = math.inf) -> int:
    return sum(each.payload for each in arrivals if each.source == source and since <= each.at < until)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    if not sandbox.inside():
        yield None
        return
    settings = {"agents": False, "sysctls": mptcp.SYSCTLS, "big": 100_000_000}
    with running(second_path=True, bw=50, rtt=20, **settings) as net:
        yield Scene(net, tmp_path_factory.mktemp("mptcp"))


def test_data_comes_over_both_paths_at_once(scene: Scene) -> None:
    with scene.download() as download:
        eventually(lambda: scene.received(SECOND_ADDRESS) > 1_000_000)
    told, arrivals = download.told, download.arrivals()
    assert told["exit"] == 0 and told["sha256"] == sha256(scene.net.directory / "big", told["bytes"])
    joins = [each for each in arrivals if each.syn]
    assert [(each.source, each.joins) for each in joins] == [(S1, False), (SECOND_ADDRESS, True)]
    assert payload(arrivals, S1) > 1_000_000 and payload(arrivals, SECOND_ADDRESS) > 1_000_000


def test_what_is_left_of_a_connection_whose_first_path_dies_comes_over_the_second(scene: Scene) -> None:
    with scene.download() as download, contextlib.ExitStack() as dead:
        eventually(lambda: scene.received(SECOND_ADDRESS) > 1_000_000)
        dead.enter_context(scene.dead_upper_path())
        died_at = time.time() + 0.2
        before = scene.received(SECOND_ADDRESS)
        eventually(lambda: scene.received(SECOND_ADDRESS) > before + 5_000_000)
        download.end()  # before the path is well again, for the kernels go on with what the programs have left
        well_at = time.time()
    told, arrivals = download.told, download.arrivals()
    assert told["exit"] == 0 and told["sha256"] == sha256(scene.net.directory / "big", told["bytes"])
    assert payload(arrivals, S1, died_at, well_at) == 0
    assert payload(arrivals, SECOND_ADDRESS, died_at, well_at) > 4_000_000


def test_a_backup_carries_nothing_until_the_first_path_dies(scene: Scene) -> None:
    with scene.download(backup=True) as download, contextlib.ExitStack() as dead:
        eventually(lambda: scene.received(S1) > 5_000_000)
        assert scene.received(SECOND_ADDRESS) == 0
        dead.enter_context(scene.dead_upper_path())
        eventually(lambda: scene.received(SECOND_ADDRESS) > 1_000_000)
        download.end()  # before the path is well again
    told = download.told
    assert told["exit"] == 0 and told["sha256"] == sha256(scene.net.directory / "big", told["bytes"])


def test_all_paths_end_with_their_server(scene: Scene) -> None:
    with scene.download() as download:
        eventually(lambda: scene.received(SECOND_ADDRESS) > 1_000_000)
        scene.files.stop(signal.SIGKILL)
        download.wait()
    try:
        assert download.told["exit"] == 1 and download.told["error"].startswith(f"{S1}:80: ")
        assert download.told["sha256"] == sha256(scene.net.directory / "big", download.told["bytes"])
    finally:
        scene.serve()
