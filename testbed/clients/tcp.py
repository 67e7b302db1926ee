"""HTTP/1.1 over a TCP connection, and over one of kernel MPTCP.

Made to need little CPU at high rates: it reads what there is, up to PIECE bytes, and while the rest of a body is long
it does so once in a PAUSE. The kernel takes in data meanwhile as it comes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import h11

from mtcp.address import Endpoint
from mtcp.linux import tcp_info
from mtcp.policy.kernel import observed
from testbed.clients.connections import Broken, Connection, checked_length, range_header
from testbed.mptcp import mptcp_socket

PIECE = 1 << 18
PAUSE = 0.001
"""Seconds; asyncio's clock makes it one to two milliseconds."""
LONG = 1 << 16
"""Bytes of a body that are still to come, above which reading pauses: the end of an answer is read as it arrives."""


class Tcp(Connection):
    """Plain TCP, as far as the program can tell."""

    protocol = 0
    """Of the socket."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._sock: socket.socket | None = None
        self._host = ""

    async def open(self, server: Endpoint) -> None:
        self._host = str(server)
        sock = self._sock = self._make_socket(socket.AF_INET6 if ":" in server.ip else socket.AF_INET)
        sock.setblocking(False)
        code = sock.connect_ex(server)
        if code == errno.EINPROGRESS:
            await _ready(sock, asyncio.get_running_loop().add_writer, asyncio.get_running_loop().remove_writer)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise Broken(f"{server}: {os.strerror(code)}")
        self.local_port = sock.getsockname()[1]
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _make_socket(self, family: socket.AddressFamily) -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM)

    async def fetch(self, path: str, first: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        self._send_request(path, first, end)
        answer = await self._event()
        assert isinstance(answer, h11.Response)
        left = checked_length(answer.status_code, dict(answer.headers), path, first, end)
        while isinstance(event := await self._event(pause=left > LONG), h11.Data):
            left -= len(event.data)
            yield bytes(event.data)
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()

    def _send_request(self, path: str, first: int, end: int | None) -> None:
        if self._sock is None or self._http.our_state is not h11.IDLE:
            raise Broken(f"{self._host} takes no more requests on this connection")
        headers = [("Host", self._host)]
        if span := range_header(first, end):
            headers.append(("Range", span))
        parts = (
            self._http.send(h11.Request(method="GET", target=path, headers=headers)),
            self._http.send(h11.EndOfMessage()),
        )
        request = b"".join(part or b"" for part in parts)
        try:
            # A request is short, and there is none before it that still waits to be sent.
            if self._sock.send(request) != len(request):
                raise Broken(f"{self._host} does not take the request")
        except OSError as error:
            raise Broken(f"{self._host}: {error.strerror}") from error
        self.sent += len(request)

    async def _event(self, pause: bool = False) -> h11.Event:
        """The next thing that the server says."""
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._read(pause))
        except h11.RemoteProtocolError as error:
            raise Broken(f"{self._host}: {error}") from error
        if not isinstance(event, (h11.Response, h11.Data, h11.EndOfMessage)):
            raise Broken(f"{self._host} has ended the connection")
        return event

    async def _read(self, pause: bool) -> bytes:
        """Some bytes, b"" at the end of the stream. No waiting between reading them and returning."""
        if pause:
            await asyncio.sleep(PAUSE)
        loop = asyncio.get_running_loop()
        while self._sock is not None:
            try:
                data = self._sock.recv(PIECE)
            except BlockingIOError:
                await _ready(self._sock, loop.add_reader, loop.remove_reader)
            except OSError as error:
                raise Broken(f"{self._host}: {error.strerror}") from error
            else:
                self.received += len(data)
                return data
        raise Broken(f"the connection to {self._host} has been closed")

    def observed(self) -> Mapping[str, Any]:
        if self._sock is None:
            return {}
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        return observed(tcp_info.parse(info), time.monotonic())

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Mptcp(Tcp):
    """Multipath TCP of the kernel. How many paths it has is for both ends' path managers to say: testbed.mptcp."""

    def _make_socket(self, family: socket.AddressFamily) -> socket.socket:
        return mptcp_socket(family)


async def _ready(sock: socket.socket, add: Callable[..., None], remove: Callable[[socket.socket], bool]) -> None:
    """Wait until the loop says that `sock` is ready: readable or writable, by what `add` and `remove` are."""
    ready = asyncio.Event()
    add(sock, ready.set)
    try:
        await ready.wait()
    finally:
        remove(sock)
