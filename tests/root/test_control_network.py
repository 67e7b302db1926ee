"""Control networks of one process, on the loopback interface: how they dial, and what a slow peer costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mtcp import pki
from mtcp.address import Endpoint, FourTuple
from mtcp.agent import control
from mtcp.agent.control import ControlConnection, ControlNetwork
from mtcp.pool import Server
from mtcp.snapshot import SoSnapshot, StateReply, TcpSnapshot
from mtcp.wire.frames import Frame, StateReplyFrame, StateRequest

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60)]

SERVERS = {name: Server(name, f"10.0.0.{i}", Endpoint(f"127.0.0.{i}", 7000)) for i, name in ((1, "s1"), (2, "s2"))}
S1, S2 = SERVERS.values()
AT_S1, AT_S2 = Endpoint(S1.service, 80), Endpoint(S2.service, 80)
OLD, NEW = (FourTuple(local, Endpoint("10.0.0.100", 50000)) for local in (AT_S1, AT_S2))
REQUEST = StateRequest(OLD, NEW, 1, 1, b"mac mac ")
REPLY = StateReplyFrame(
    OLD,
    REQUEST.mac,
    StateReply(1, 2, 3, 4, 0, TcpSnapshot(*[1] * 11), SoSnapshot(0, 0, 0), b"a key ..", 1, b"", b"", b""),
)
LONG = 10.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    pki.initialise(tmp_path / "pool.d", list(SERVERS))
    return tmp_path / "pool.d"


class Agent:
    """A control network, and what arrives on it."""

    def __init__(self, own: Server, directory: Path) -> None:
        self.frames: list[tuple[str, Frame]] = []
        self.answer: Frame | None = None
        others = [server for server in SERVERS.values() if server.name != own.name]
        self.network = ControlNetwork(own, others, directory, self._on_frame)

    def _on_frame(self, frame: Frame, peer: ControlConnection) -> None:
        self.frames.append((peer.name, frame))
        if self.answer is not None:
            peer.send(self.answer)


@asynccontextmanager
async def running(*agents: Agent) -> AsyncIterator[None]:
    for agent in agents:
        await agent.network.start()
    try:
        yield
    finally:
        for agent in agents:
            await agent.network.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.005)


def both(directory: Path, test: Callable[[Agent, Agent], Awaitable[None]]) -> None:
    """Run `test` with the agents of s1 and s2, connected."""

    async def run() -> None:
        s1, s2 = Agent(S1, directory), Agent(S2, directory)
        async with running(s1, s2):
            await until(lambda: s1.network.to(AT_S2) and s2.network.to(AT_S1))
            await test(s1, s2)

    asyncio.run(run())


def link(agent: Agent, to: Endpoint) -> ControlConnection:
    connection = agent.network.to(to)
    assert connection is not None
    return connection


def test_each_knows_the_other(directory: Path) -> None:
    async def test(s1: Agent, s2: Agent) -> None:
        s1.answer = REPLY
        link(s2, AT_S1).send(REQUEST)
        await until(lambda: s2.frames)
        assert s1.frames == [("s2", REQUEST)]
        assert s2.frames == [("s1", REPLY)]
        peer = link(s1, AT_S2)
        assert peer.speaks_for(AT_S2) and not peer.speaks_for(AT_S1) and not peer.speaks_for(None)

    both(directory, test)


def impostor(directory: Path, own: str, caplog: pytest.LogCaptureFixture) -> tuple[str, int]:
    """s2 dials s1 and meets a TLS server with the credentials of `own`: what s2 says, and how often it dialled."""
    dialled = 0

    async def run() -> None:
        def count() -> asyncio.Protocol:
            nonlocal dialled
            dialled += 1
            return asyncio.Protocol()

        server = await asyncio.get_running_loop().create_server(
            count, *S1.control, ssl=pki.server_context(directory, own)
        )
        s2 = Agent(S2, directory.parent / "pool.d")
        async with running(s2):
            await until(lambda: any("control connection to s1" in line for line in caplog.messages))
            begun = time.monotonic()
            while time.monotonic() - begun < 1:
                assert s2.network.to(AT_S1) is None
                await asyncio.sleep(0.01)
        server.close()

    asyncio.run(run())
    [line] = [line for line in caplog.messages if "control connection to s1" in line]
    return line, dialled


def test_another_server_answers(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    line, dialled = impostor(directory, "s2", caplog)
    assert "certificate refused: Hostname mismatch, certificate is not valid for 's1'; dialling again" in line
    assert dialled < 10


def test_another_pool_answers(directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pki.initialise(tmp_path / "other", list(SERVERS))
    line, _ = impostor(tmp_path / "other", "s1", caplog)
    assert "certificate refused: " in line


def test_who_is_refused_after_the_handshake_does_not_dial_in_haste(
    directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In TLS 1.3 the dialling side is through before its certificate has been looked at."""
    pki.initialise(tmp_path / "other", list(SERVERS))

    async def run() -> None:
        s1, s2 = Agent(S1, directory), Agent(S2, directory)
        mixed = pki.contexts(directory, "s2")
        mixed.dialling.load_cert_chain(tmp_path / "other" / "s2.pem", tmp_path / "other" / "s2.key")
        s2.network._credentials._contexts = mixed
        async with running(s1, s2):
            await asyncio.sleep(2)

    asyncio.run(run())
    refusals = [line for line in caplog.messages if "control connection from 127.0.0.2 refused" in line]
    assert 2 <= len(refusals) <= 8
    lines = [line for line in caplog.messages if "control connection to s1" in line]
    assert lines.count("control connection to s1: it let go at once, its log may say why; dialling again") == 1


def test_renewed_credentials_are_used_without_a_new_start(directory: Path) -> None:
    async def test(s1: Agent, s2: Agent) -> None:
        before = link(s2, AT_S1)
        old = before._transport.get_extra_info("peercert")["serialNumber"]  # type: ignore[union-attr]
        pki.initialise(directory, list(SERVERS), renew=True)
        before.abort("test")
        await until(lambda: s2.network.to(AT_S1))
        assert link(s2, AT_S1)._transport.get_extra_info("peercert")["serialNumber"] != old  # type: ignore[union-attr]

    both(directory, test)


def test_broken_credentials_leave_those_of_before(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(s1: Agent, s2: Agent) -> None:
        (directory / "s1.pem").write_text("")
        link(s2, AT_S1).abort("test")
        await until(lambda: s2.network.to(AT_S1))

    both(directory, test)
    assert any("holds no certificate in PEM form; going on with those of before" in line for line in caplog.messages)


def test_large_state_arrives_and_the_agents_go_on_meanwhile(directory: Path) -> None:
    large = replace(REPLY, reply=replace(REPLY.reply, read_buffer=bytes(range(256)) * 25_000))
    small = replace(REPLY, tag=b"small ..")

    async def test(s1: Agent, s2: Agent) -> None:
        turns = 0
        for frame in (large, small, replace(large)):
            assert link(s1, AT_S2).send(frame)
        while len(s2.frames) < 3:
            await asyncio.sleep(0)
            turns += 1
        assert [frame for _, frame in s2.frames] == [large, small, large]
        assert turns > 2 * 6_400_000 / control.CHUNK

    both(directory, test)


def test_peer_that_does_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_QUEUED", 20_000_000)
    large = replace(REPLY, reply=replace(REPLY.reply, read_buffer=bytes(6_000_000)))

    async def test(s1: Agent, s2: Agent) -> None:
        connection = link(s1, AT_S2)
        accepted = s2.network._accepted["s1"]
        assert accepted._transport is not None
        accepted._transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0
        while connection.send(replace(large)):
            sent += 1
            await asyncio.sleep(0.01)
        assert sent < 10
        assert not connection.is_open

    both(directory, test)


def test_a_frame_that_still_waits_is_not_queued_again(directory: Path) -> None:
    large = replace(REPLY, reply=replace(REPLY.reply, read_buffer=bytes(6_000_000)))
    last = replace(REPLY, tag=b"the last")

    async def test(s1: Agent, s2: Agent) -> None:
        connection = link(s1, AT_S2)
        for _ in range(20):
            assert connection.send(large)
        await until(lambda: s2.frames)
        assert connection.send(large) and connection.send(last)
        await until(lambda: ("s1", last) in s2.frames)
        assert s2.frames == [("s1", large), ("s1", large), ("s1", last)]

    both(directory, test)


def test_peer_that_does_not_read_little(directory: Path) -> None:
    """Less than the bound, and for long."""
    large = replace(REPLY, reply=replace(REPLY.reply, read_buffer=bytes(20_000_000)))

    async def test(s1: Agent, s2: Agent) -> None:
        connection = link(s1, AT_S2)
        accepted = s2.network._accepted["s1"]
        assert accepted._transport is not None
        accepted._transport.pause_reading()  # type: ignore[attr-defined]
        assert connection.send(large)
        async with asyncio.timeout(3 * control.SILENCE_MS / 1000):
            assert await connection.closed == "no answer in time"

    both(directory, test)
