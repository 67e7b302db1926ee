"""What an application can do to its host's agent: messages on the local socket, and the capsule that it shares."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import functools
import json
import logging
import os
import socket
import struct
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

from mtcp import capsule as capsules
from mtcp import pki
from mtcp.address import FourTuple
from mtcp.agent import client, daemon
from mtcp.agent.local import MAX_PACKET, Channel
from mtcp.capsule import Capsule, CapsuleError, Fence, Snapshot
from mtcp.linux.bpf.layout import EntryState
from mtcp.linux.datapath import Entry
from mtcp.pool import Pool
from mtcp.snapshot import ApplicationSnapshot, KernelQueues, Refused, compose
from tests.fuzz.parsers import Target
from tests.messages import CLIENT, REPLY, S1, S2

MOST_MESSAGES = 4


_KERNEL = {"check_support": Mock(), "LocalSocket": Mock(), "ControlSegments": Mock(), "Datapath": Mock()}
_SOCK_DIAG = Mock()
_POOL = """
[[server]]
name = "s1"
service = "10.0.0.1"
control = "10.1.0.1:7000"
[[server]]
name = "s2"
service = "10.0.0.2"
control = "10.1.0.2:7000"
"""


def _datapath() -> Mock:
    """No BPF: one connection of a client, and nothing else."""
    entry = dict.fromkeys((field.name for field in dataclasses.fields(Entry)), 0)
    entry |= {"four_tuple": FourTuple(CLIENT, S1), "current": S1, "next": None, "key": b"8 bytes!", "memory": b""}
    datapath = Mock(capacity=1)
    datapath.entry.return_value = Entry(**entry | {"state": EntryState.TRACKED})  # type: ignore[arg-type]
    datapath.entries.return_value = [datapath.entry.return_value]
    datapath.begin.side_effect = ValueError("there is no mapping here")
    datapath.accepted.return_value = None
    datapath.servers.return_value = []
    datapath.listen.side_effect = struct.Struct("!H").pack
    return datapath


class _Harness:
    """An agent with all but kernel and network; its event loop runs only as long as each message needs."""

    def __init__(self) -> None:
        logging.disable(logging.CRITICAL)
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.escaped.append(context))
        self.escaped: list[dict[str, Any]] = []
        self._directory = tempfile.TemporaryDirectory()
        file = Path(self._directory.name, "pool.toml")
        file.write_text(_POOL)
        pool = Pool.load(file)
        pki.initialise(pool.credentials, list(pool.servers))
        _KERNEL["Datapath"].attach.return_value = _datapath()
        with patch.multiple(daemon, **_KERNEL), patch.object(client, "SockDiag", _SOCK_DIAG):
            self.agent: Any = daemon.Agent(daemon.Settings("s1", Path("/"), [], pool), ExitStack())
        for connection in self.agent._client.connections():
            connection.known.servers = [S2]

    async def feed(self, packets: list[bytes]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, theirs):
            sock.setblocking(False)
        Channel(theirs, self.agent)
        for packet in packets:
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(ours, [packet], self._beside(packet))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                while answer := ours.recv(MAX_PACKET):
                    assert isinstance(json.loads(answer), dict)
        ours.close()
        while theirs.fileno() >= 0:
            await asyncio.sleep(0)
        assert not self.agent._server._listeners, "the agent keeps a channel that is closed"
        assert not self.agent._events._subscribers, "it keeps a watcher that has gone"

    def _beside(self, packet: bytes) -> list[int]:
        """The descriptors for "attach", or the one for "listen"."""
        return self.descriptors if b"tt" in packet else [self._bound.fileno()] if b"st" in packet else []

    @functools.cached_property
    def _bound(self) -> socket.socket:
        return socket.create_server(("127.0.0.1", 0))

    @functools.cached_property
    def descriptors(self) -> list[int]:
        """Socket, capsule, pipe, as an application attaches them."""
        return [socket.socket().detach(), Capsule.create(64, 64).fd, os.pipe()[0]]


_harness = functools.cache(_Harness)


def local_messages(data: bytes) -> None:
    """Packets of one application, a NUL between them."""
    harness = _harness()
    _ = harness.descriptors, harness._bound
    before = _descriptors_open()
    for mock in (*_KERNEL.values(), _SOCK_DIAG):
        mock.reset_mock()  # else it keeps every call
    harness.loop.run_until_complete(harness.feed(data.split(b"\0")[:MOST_MESSAGES]))
    assert not harness.escaped, harness.escaped.pop()
    assert _descriptors_open() == before, "descriptors leak"


def _descriptors_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


_SIZES = struct.Struct("=BBB")


def capsule(data: bytes) -> None:
    """Sizes of a memory, and its first bytes; then what the agent does with a capsule."""
    if len(data) < _SIZES.size + 8:
        return
    log_size, state_max, odd = _SIZES.unpack_from(data)
    read, written = struct.unpack_from("=II", data, _SIZES.size)
    content = data[_SIZES.size + 8 :]
    fd = os.memfd_create("fuzz", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096 + 2 * state_max + log_size + (odd == 1))
    os.pwrite(fd, content[: os.fstat(fd).st_size], 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0 if odd == 2 else capsules._SEALS)
    try:
        opened = Capsule(fd)
    except CapsuleError:
        return
    try:
        opened.fence = Fence.FENCED
        assert opened.fence is Fence.FENCED and not opened.is_open
        with contextlib.suppress(CapsuleError, Refused):
            reply = _dump(opened, read, written)
            assert len(reply.application_state) <= opened.state_max
            assert len(reply.read_buffer) <= opened.log_size
        assert len(opened.log_space(64)) <= opened.log_size
    finally:
        opened.memory.close()
        os.close(opened.fd)


def _dump(opened: Capsule, read: int, written: int) -> Any:
    """As the agent does it, of a socket that has read and written that much."""
    assert opened.overflowed in (False, True)
    snapshot = opened.snapshot()
    mask = 0xFFFFFFFF
    application = ApplicationSnapshot(snapshot.state, snapshot.rcv_offset & mask, snapshot.snd_offset & mask)
    queues = KernelQueues(written, written, written, b"", read, read, b"", written, snapshot.snd_offset)
    log = opened.read_log(snapshot.rcv_offset, read)
    return compose(written, application, queues, log, REPLY.tcp_snapshot, REPLY.so_snapshot, b"8 bytes!", 1)


def _messages() -> list[bytes]:
    texts = [
        '{"op": "listen", "log_size": 7000}',
        '{"op": "attach"}',
        '{"op": "ls"}',
        '{"op": "status"}',
        '{"op": "migrate", "connection": "50000", "to": "10.0.0.2"}',
        '{"op": "migrate", "connection": null, "to": "10.0.0.1"}',
        '{"op": "watch"}',
        '{"op": "hint", "connection": "10.0.0.9:50000", "reason": "drain", "to": "10.0.0.2"}',
        '{"op": "drain", "server": "s1", "to": null, "seconds": 1e9}',
        '{"op": ["x", 1.5e3, true], "port": Infinity}',
    ]
    packets = [text.encode() for text in texts]
    return [*packets, b"\0".join(packets[:4]), packets[0] + b"\0" + packets[0]]


def _capsules() -> list[bytes]:
    made = Capsule.create(log_size=32, state_max=16)
    made.put_snapshot(Snapshot(b"state", 3, 4))
    made.logged(5)
    memory = made.memory[:200]
    made.close()
    return [_SIZES.pack(32, 16, odd) + struct.pack("=II", 8, 4) + memory for odd in (0, 1, 2)]


TARGETS = {
    "local": Target(local_messages, _messages, 1024),
    "capsule": Target(capsule, _capsules, 320),
}
