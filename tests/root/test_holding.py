"""What a server's agent reads out of a real connection while the application is using it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from mtcp import seq
from mtcp.agent.holding import ServerConnection
from mtcp.agent.server import ServerSide
from mtcp.capsule import Capsule, Origins, Record, Snapshot
from mtcp.linux import tcp_repair
from mtcp.linux.segments import Segment, TcpFlags
from mtcp.snapshot import StateReply
from tests.root.two_hosts import Network, numbers, two_hosts, until

pytestmark = pytest.mark.root

CONTENT = os.urandom(1 << 20)
EXPORTED = 900_000
"""Bytes that the application counts as sent."""
TCP_CLOSE = 7


@pytest.fixture
def network() -> Iterator[Network]:
    with two_hosts() as made:
        yield made


def test_a_call_of_send_goes_on_after_the_freeze(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses new calls only; what this one writes may be exported before the state is read."""
    client, server = network.connect(network.listener())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100_000)
    server.settimeout(None)  # one call
    received, sent = numbers(server)
    capsule = Capsule.create(1 << 16, 1 << 10)
    capsule.record = Record(b"8 bytes!", Origins(received, sent, sent, 0), 0)
    application = threading.Thread(target=server.sendall, args=(CONTENT,), daemon=True)
    application.start()
    until(lambda: stuck(server))
    acked = tcp_repair.counters(server).acked
    freeze, frozen_at = tcp_repair.freeze, []

    def freeze_and_let_it_write_on(sock: socket.socket) -> tuple[tcp_repair.Counters, bytes]:
        result = freeze(sock)
        server.setsockopt(socket.SOL_SOCKET, tcp_repair.SO_SNDBUFFORCE, 2 * len(CONTENT))  # it wakes whoever waits
        application.join(10)
        capsule.put_snapshot(Snapshot(b"state", 0, EXPORTED, False))
        frozen_at.append(result[0].written)
        return result

    async def dump() -> StateReply:
        watched, lifeline = os.pipe()
        copy = socket.socket(fileno=os.dup(server.fileno()))
        connection = ServerConnection(cast(ServerSide, None), copy, capsule, watched, os.getpid())
        try:
            return connection._dump(seq.add(sent, acked), 1)
        finally:
            connection.release()
            os.close(lifeline)

    monkeypatch.setattr(tcp_repair, "freeze", freeze_and_let_it_write_on)
    reply = asyncio.run(dump())
    assert acked < frozen_at[0] < EXPORTED < tcp_repair.counters(server).written == len(CONTENT)
    assert reply.write_buffer == CONTENT[acked:EXPORTED]


def test_the_application_reads_all_just_before_the_freeze(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = network.connect(network.listener())
    client.sendall(b"data")
    until(lambda: tcp_repair.counters(server).received == 4)
    counters, read = tcp_repair.counters, []

    def counters_and_read(sock: socket.socket) -> tcp_repair.Counters:
        result = counters(sock)
        if not read:
            read.append(server.recv(4))
        return result

    monkeypatch.setattr(tcp_repair, "counters", counters_and_read)
    with socket.socket(fileno=os.dup(server.fileno())) as agents:
        at, unread = tcp_repair.freeze(agents)
    assert (at.received, at.read, unread, read) == (4, 4, b"", [b"data"])


@pytest.mark.parametrize("over", [False, True])
def test_the_clients_fin_is_repeated_while_the_connection_lasts(network: Network, over: bool) -> None:
    """Afterwards there is no socket for it, and the kernel would answer with RST."""
    client, server = network.connect(network.listener())
    capsule = Capsule.create(1 << 16, 1 << 10)
    capsule.record = Record(b"8 bytes!", Origins(0, 0, 0, 0), 0)
    fin = Segment(tcp_repair.four_tuple_of(client), 1, 1, TcpFlags.FIN | TcpFlags.ACK, 0)
    sent: list[Segment] = []

    async def repeat() -> None:
        watched, lifeline = os.pipe()
        copy = socket.socket(fileno=os.dup(server.fileno()))
        side = cast(ServerSide, SimpleNamespace(send=sent.append))
        connection = ServerConnection(side, copy, capsule, watched, os.getpid())
        try:
            if over:
                client.shutdown(socket.SHUT_WR)
                server.shutdown(socket.SHUT_WR)
                until(lambda: tcp_repair.counters(server).state == TCP_CLOSE)
            connection.end_for_client(fin)
        finally:
            connection.release()
            os.close(lifeline)

    asyncio.run(repeat())
    assert sent == ([] if over else [fin])


def stuck(sock: socket.socket) -> bool:
    """Whether its application has written as much as the kernel takes."""
    before = tcp_repair.counters(sock)
    time.sleep(0.1)
    return before.written > 0 and tcp_repair.counters(sock) == before
