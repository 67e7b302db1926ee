"""HTTP/3 between hosts: exact bytes, ranges, the rest from another server, another port, and nothing piles up."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from aioquic.asyncio.server import QuicServer

from mtcp.address import Endpoint
from testbed import certificates, quic
from testbed.clients.connections import Broken, Refused
from testbed.clients.quic import Quic
from testbed.processes import PATIENCE
from testbed.services import quic_files
from testbed.services.quic_files import AHEAD, PIECE, Serving
from tests.root.two_hosts import ADDRESSES, Host, Network, run, two_hosts, until

CONTENT = os.urandom(2_000_000)
PORT = 443
V4, V6 = ADDRESSES.values()
CLIENT, S1, S2, _, _ = V4
ELSEWHERE = "10.77.0.4"
"""Another address of the client."""


class Hosts:
    """A client's host, one with both servers' addresses, and files."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network, self.files = network, directory / "files"
        self.files.mkdir()
        (self.files / "big").write_bytes(CONTENT)
        (self.files / "long").write_bytes(CONTENT * 40)
        (self.files / "empty").write_bytes(b"")
        self.credentials = certificates.make(directory / "credentials", [*V4[1:3], *V6[1:3]])
        self.others = certificates.make(directory / "others", ["192.0.2.1", "server.example"])

    @contextlib.asynccontextmanager
    async def serving(self, *addresses: str) -> AsyncIterator[list[QuicServer]]:
        with self.network.server.inside():
            servers = [await quic_files.serve(each, PORT, self.files, self.credentials) for each in addresses]
        try:
            yield servers
        finally:
            for server in servers:
                server.close()

    @contextlib.asynccontextmanager
    async def connected(self, server: str = S1, ca: Path | None = None) -> AsyncIterator[Quic]:
        connection = Quic()
        connection.ca = ca or self.credentials.certificate
        try:
            with self.network.client.inside():
                await connection.open(Endpoint(server, PORT))
            yield connection
        finally:
            connection.close()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with two_hosts() as network:
        run("ip", "-n", network.client.name, "address", "add", f"{ELSEWHERE}/24", "dev", "c0")
        yield Hosts(network, tmp_path_factory.mktemp("quic"))


def perform(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30 * PATIENCE):
            await act()

    asyncio.run(bounded())


async def fetched(connection: Quic, path: str = "/big", first: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in connection.fetch(path, first, end)])


async def begun(connection: Quic, least: int, **span: Any) -> tuple[bytes, Any]:
    """At least so many bytes of the file, and the fetch, which goes on."""
    pieces, got = connection.fetch("/big", **span), b""
    while len(got) < least:
        got += await anext(pieces)
    return got, pieces


def served(server: QuicServer) -> list[Serving]:
    """The connections of a server."""
    return list(dict.fromkeys(server._protocols.values()))


@pytest.mark.parametrize("server", [S1, V6[1]], ids=["ipv4", "ipv6"])
def test_what_comes_is_exact_range_after_range(hosts: Hosts, server: str) -> None:
    async def act() -> None:
        async with hosts.serving(server), hosts.connected(server) as connection:
            assert await fetched(connection) == CONTENT
            assert await fetched(connection, first=5, end=200_005) == CONTENT[5:200_005]
            assert await fetched(connection, first=len(CONTENT) - 7) == CONTENT[-7:]
            assert await fetched(connection, "/empty") == b""
            with pytest.raises(Refused, match="/none: status 404"):
                await fetched(connection, "/none")
            with pytest.raises(Refused, match="status 416"):
                await fetched(connection, first=len(CONTENT), end=len(CONTENT) + 5)
            assert await fetched(connection, end=3) == CONTENT[:3]
            assert connection.received > len(CONTENT) + 200_000 and 0 < connection.sent < 1000
            seen = connection.observed()
            assert 0 < seen["min_rtt"] < 5 and 0 < seen["srtt"] < 5
        assert connection.observed() == {}
        with pytest.raises(Broken, match="has been closed"):
            await fetched(connection)

    perform(act)


def test_another_server_has_the_rest(hosts: Hosts) -> None:
    async def act() -> None:
        async with hosts.serving(S1, S2) as (s1, s2):
            async with hosts.connected(S1) as first:
                got, pieces = await begun(first, 300_000)
                await pieces.aclose()
            async with hosts.connected(S2) as second:
                rest = await fetched(second, first=len(got))
                assert served(s2) and not any(each._bodies for each in served(s2))
            assert len(got) < len(CONTENT) and got + rest == CONTENT
            while any(each._bodies for each in served(s1)):  # it is told
                await asyncio.sleep(0.001)

    perform(act)


def test_a_connection_survives_the_client_s_new_address(hosts: Hosts) -> None:
    async def act() -> None:
        async with hosts.serving(S1) as (server,), hosts.connected() as connection:
            got, pieces = await begun(connection, 300_000)
            (serving,) = served(server)
            addresses, port = {serving._quic.get_peer_address()}, connection.local_port
            with hosts.network.client.inside():
                connection.migrate(ELSEWHERE)
            assert connection.local_port != port
            async for piece in pieces:
                got += piece
                addresses.add(serving._quic.get_peer_address())
            assert got == CONTENT and served(server) == [serving]
            assert addresses == {(CLIENT, port), (ELSEWHERE, connection.local_port)}

    perform(act)


def test_neither_end_holds_what_the_other_is_too_slow_for(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quic, "WINDOW", 400_000)

    async def act() -> None:
        async with hosts.serving(S1) as (server,), hosts.connected() as connection:
            got, pieces = await begun(connection, 1)
            (serving,) = served(server)
            assert connection._exchange is not None
            client = connection._exchange._quic
            most = held = 0
            while client.unread < quic.WINDOW - len(got) - 1000:  # headers
                (stream,) = [s for s in serving._quic._streams.values() if s.stream_id == 0]
                held = max(held, len(stream.sender._buffer))
                most = max(most, client.unread)
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert most <= client.unread <= quic.WINDOW, "more than it may send ahead"
            assert 0 < held <= quic.WINDOW + AHEAD + PIECE, "more than it can send soon"
            async for piece in pieces:
                got += piece
            assert got == CONTENT

    perform(act)


def test_a_client_of_a_server_that_died_learns_of_it(hosts: Hosts) -> None:
    """Its socket is gone, as the kernel leaves it behind a program that was killed: not a word, but ICMP."""

    async def act() -> None:
        with hosts.network.server.inside():
            server = await quic_files.serve(S1, PORT, hosts.files, hosts.credentials)
        async with hosts.connected() as connection:
            got, pieces = await begun(connection, 300_000)
            (serving,) = served(server)
            assert server._transport is not None and serving._timer is not None
            serving._timer.cancel()
            server._transport.abort()
            with pytest.raises(Broken, match=r"10\.77\.0\.2.*Connection refused"):
                async for piece in pieces:
                    got += piece
            assert CONTENT.startswith(got) and len(got) < len(CONTENT)

    perform(act)


@pytest.mark.parametrize("wrong", ["ca", "name", "nobody"])
def test_who_cannot_prove_its_address_is_not_believed(hosts: Hosts, wrong: str) -> None:
    server = {"ca": S1, "name": V6[1], "nobody": S2}[wrong]
    fault = {"ca": "self-signed", "name": "doesn't match|not valid", "nobody": "Connection refused"}[wrong]

    async def act() -> None:
        with hosts.network.server.inside():
            shown = hosts.others if wrong == "name" else hosts.credentials
            own = await quic_files.serve(V6[1] if wrong == "name" else S1, PORT, hosts.files, shown)
        believed = hosts.others if wrong != "nobody" else hosts.credentials
        with contextlib.closing(own), pytest.raises(Broken, match=fault):
            async with hosts.connected(server, ca=believed.certificate):
                pass

    perform(act)


def test_the_programs_go_on_at_another_server(hosts: Hosts, tmp_path: Path) -> None:
    """quic_files, and the experiments' client, with a policy."""
    client, server = hosts.network.client, hosts.network.server
    credentials, out = tmp_path / "credentials", tmp_path / "out"
    certificates.make(credentials, [S1, S2])
    files = ["--directory", hosts.files, "--credentials", credentials]
    before = carried(client)
    programs: list[subprocess.Popen[str]] = []

    def start(host: Host, module: str, *options: object) -> None:
        command = ["ip", "netns", "exec", host.name, sys.executable, "-m", module, *map(str, options)]
        programs.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    try:
        for address in (S1, S2):
            start(server, "testbed.services.quic_files", *files, "--address", address)
        for program in programs:
            assert program.stdout is not None and program.stdout.readline() == "listening\n"
        where = ["--servers", f"s1={S1}:{PORT},s2={S2}:{PORT}", "--ca", credentials / "certificate.pem"]
        policy = ["--connect", "quic", "--policy", "every:bytes=400000", "--path", "/long"]
        end = ["--end-at", time.monotonic() + 60 * PATIENCE, "--out", out]
        start(client, "testbed.clients.http", "download", *where, *policy, *end)
        assert programs[-1].stdout is not None and programs[-1].stdout.readline() == "ready\n"
        until(lambda: carried(client) > before + 5_000_000, 20 * PATIENCE)
        programs[-1].send_signal(signal.SIGTERM)
        assert programs[-1].wait(20) == 0
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    told = json.loads((out / "client.json").read_text())
    whole, rest = divmod(told["bytes"], len(CONTENT))
    assert told["sha256"] == hashlib.sha256(CONTENT * whole + CONTENT[:rest]).hexdigest()
    assert told["bytes"] > 700_000 and not told["error"]
    # Every second connection at the other server.
    assert len(told["connections"]) > 2 and len(told["decisions"]) >= len(told["connections"]) - 1
    assert [each["server"] for each in told["connections"][:3]] == ["s1", "s2", "s1"]


def carried(host: Host) -> int:
    """Bytes that have come to the host."""
    shown = subprocess.check_output(["ip", "-n", host.name, "-j", "-s", "link", "show", "c0"])
    return int(json.loads(shown)[0]["stats64"]["rx"]["bytes"])
