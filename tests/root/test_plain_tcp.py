"""Whoever has no M-TCP gets plain TCP, packet by packet what it would be without any agent."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.utils import RawPcapReader

from testbed import sandbox
from testbed.capture import Capture
from testbed.nodes import MtcpHost
from testbed.pool import Pool, Server
from testbed.processes import Program, checked
from testbed.strict import compile_strict
from tests.root.two_hosts import Segment, shape
from topologies.two_servers import ADDRESSES, CONTROL, CONTROL_PORT, Running, running

pytestmark = pytest.mark.sandbox

PORT = "7001"
OURS = b"\xfd"
SYN, ACK = 0x02, 0x10
Shape = tuple[int, int, list[bytes]]


class Hosts:
    """The network without agents, until a test starts some."""

    def __init__(self, net: Running, directory: Path) -> None:
        self.net, self.directory = net, directory
        servers = [Server(name, ADDRESSES[name], f"{CONTROL[name]}:{CONTROL_PORT}") for name in CONTROL]
        self.pool = Pool(servers, directory)
        self.pool.write_files()
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def service(self, *options: str) -> Iterator[None]:
        """The stream service on s1."""
        log = self.directory / f"stream-{next(self._numbers)}.log"
        command = [sys.executable, "-m", "testbed.services.stream", "--port", PORT, *options]
        program = Program(self.net.s1, command, log)
        program.wait_for("listening")
        try:
            yield
        finally:
            program.stop()

    def conversation(self) -> list[Segment]:
        """A download and an upload of the client; all segments of both."""
        strict = compile_strict(self.directory)
        path = self.directory / f"{next(self._numbers)}.pcap"
        with Capture(self.net.client, path):
            for mode in ("recv", "upload"):
                checked(self.net.client, str(strict), mode, ADDRESSES["s1"], PORT, "300000")
        return [Segment(frame) for frame, _ in RawPcapReader(str(path)) if frame[12:14] == b"\x08\x00"]

    def without_agents(self) -> list[Segment]:
        with self.service("--plain"):
            return self.conversation()

    def moves(self, host: MtcpHost) -> str:
        """What `mtcp ls` says there."""
        return checked(host, str(Path(sys.executable).with_name("mtcp")), "ls").strip()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts | None]:
    # Fixtures are also made outside the sandbox, where the test does not run.
    if not sandbox.inside():
        yield None
        return
    with running(agents=False, big=10_000) as net:
        hosts = Hosts(net, tmp_path)
        with hosts.pool:
            yield hosts


def handshakes(segments: list[Segment]) -> list[Shape]:
    """Flags, window and options of every SYN and SYN-ACK."""
    return [(s.flags, s.window, shape(s.options)) for s in segments if s.flags & SYN]


def established(segments: list[Segment]) -> list[tuple[bytes, ...]]:
    """The kinds of option lists on all other segments; SACK blocks, which loss alone brings, are left out."""
    lists = [[o for o in shape(s.options) if o[0] != 5] for s in segments if not s.flags & SYN]
    return sorted({tuple(o[:1] for o in options if o != b"\x01") for options in lists})


def without_ours(shapes: list[Shape]) -> list[Shape]:
    return [(flags, window, [o for o in options if o[:1] != OURS]) for flags, window, options in shapes]


def test_a_client_without_agent_meets_a_server_with_one(hosts: Hosts) -> None:
    plain = hosts.without_agents()
    hosts.pool.start_agent(hosts.net.s1)
    hosts.pool.start_agent(hosts.net.s2)
    with hosts.service():
        mixed = hosts.conversation()
    assert len(handshakes(plain)) == 4
    assert handshakes(mixed) == handshakes(plain)
    assert established(mixed) == established(plain)
    assert hosts.moves(hosts.net.s1) == "no migratable connections"


@pytest.mark.parametrize("agent_at_server", [False, True], ids=["no-agent", "unregistered-listener"])
def test_a_client_with_agent_meets_a_plain_server(hosts: Hosts, agent_at_server: bool) -> None:
    plain = hosts.without_agents()
    hosts.pool.start_agent(hosts.net.client)
    if agent_at_server:
        hosts.pool.start_agent(hosts.net.s1)
    with hosts.service("--plain"):
        mixed = hosts.conversation()
        assert hosts.moves(hosts.net.client) == "no migratable connections"
    shapes = handshakes(mixed)
    assert without_ours(shapes) == handshakes(plain)
    for flags, _, options in shapes:
        asked = [o for o in options if o[:1] == OURS]
        assert len(asked) == (0 if flags & ACK else 1)
    assert established(mixed) == established(plain)


def test_a_listener_that_ends_leaves_plain_tcp_behind(hosts: Hosts) -> None:
    """The port's next owner does not use mtcp.listen: the agent must not offer M-TCP in its name."""
    plain = hosts.without_agents()
    for host in (hosts.net.client, hosts.net.s1):
        hosts.pool.start_agent(host)
    with hosts.service():
        assert any(o[:1] == OURS for f, _, options in handshakes(hosts.conversation()) if f & ACK for o in options)
    with hosts.service("--plain"):
        mixed = hosts.conversation()
    assert [s for s in handshakes(mixed) if s[0] & ACK] == [s for s in handshakes(plain) if s[0] & ACK]
