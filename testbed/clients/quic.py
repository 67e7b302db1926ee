"""HTTP/3 over a QUIC connection of aioquic's. Its settings: testbed.quic; what limits it: docs/quic.md."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Mapping
from typing import Any, cast

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamDataReceived, StreamReset

from mtcp.address import Endpoint
from testbed import quic
from testbed.clients.connections import Broken, Connection, checked_length, range_header

BATCH = 64
"""Datagrams that are read before anything is sent. aioquic's own loop wakes, and looks for something to send, for each
one: a client needs twice the CPU time then."""
PAUSE = 0.001
"""Seconds, which asyncio's clock makes one to two milliseconds, from one reading to the next while more than LONG bytes
of an answer are still to come: a wake-up finds some ten datagrams at 100 Mbit/s, not one."""
LONG = 1 << 16
LARGEST = 1 << 16
"""Bytes of a datagram."""


class Quic(Connection):
    """See above. It believes no server without a certificate for its address."""

    def __init__(self) -> None:
        self._exchange: _Exchange | None = None
        self._server = Endpoint("", 0)

    async def open(self, server: Endpoint) -> None:
        self._server = server
        configured = quic.configuration(client=True)
        configured.server_name = server.ip
        if self.ca is not None:
            configured.load_verify_locations(str(self.ca))
        exchange = self._exchange = _Exchange(quic.Windowed(configuration=configured))
        try:
            self._use(self._socket())
            exchange.connect(server)
            await exchange.wait_connected()
        except OSError as error:  # ConnectionError, too
            raise Broken(f"{server}: {exchange.why_over or error.strerror}") from error

    def _socket(self, local: str = "") -> socket.socket:
        sock = quic.udp_socket(socket.AF_INET6 if ":" in self._server.ip else socket.AF_INET)
        try:
            sock.bind((local, 0))
            sock.connect(self._server)
        except OSError:
            sock.close()
            raise
        return sock

    def _use(self, sock: socket.socket) -> None:
        assert self._exchange is not None
        self._exchange.use(_Datagrams(sock, self._exchange), self._server)
        self.local_port = sock.getsockname()[1]

    def migrate(self, local: str = "") -> None:
        """Go on from another port, and another address of this host if `local` is one: what QUIC connections can do."""
        assert self._exchange is not None
        self._use(self._socket(local))
        self._exchange.change_connection_id()

    async def fetch(self, path: str, first: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        exchange = self._exchange
        if exchange is None:
            raise Broken(f"the connection to {self._server} has been closed")
        headers = {":method": "GET", ":scheme": "https", ":authority": str(self._server), ":path": path}
        if span := range_header(first, end):
            headers["range"] = span
        exchange.request(headers)
        try:
            while exchange.headers is None:
                await self._news(exchange)
            exchange.left = checked_length(int(exchange.headers[b":status"]), exchange.headers, path, first, end)
            while exchange.pieces or not exchange.ended:
                if exchange.pieces:
                    yield exchange.read()
                else:
                    await self._news(exchange)
        finally:
            exchange.finish()

    async def _news(self, exchange: _Exchange) -> None:
        if exchange.why_over:
            raise Broken(f"{self._server}: {exchange.why_over}")
        exchange.changed.clear()
        await exchange.changed.wait()

    @property
    def received(self) -> int:  # type: ignore[override]
        return self._exchange.received if self._exchange is not None else 0

    @property
    def sent(self) -> int:  # type: ignore[override]
        return self._exchange.sent if self._exchange is not None else 0

    def observed(self) -> Mapping[str, Any]:
        return {} if self._exchange is None or self._exchange.why_over else self._exchange.observed()

    def close(self) -> None:
        if self._exchange is not None:
            self._exchange.drop()


class _Exchange(QuicConnectionProtocol):
    """The connection, and the answer that is being read."""

    _quic: quic.Windowed

    def __init__(self, connection: quic.Windowed) -> None:
        super().__init__(connection)
        quic.paced(connection)
        self._http = H3Connection(connection)
        self._datagrams: _Datagrams | None = None
        self._stream_id = -1
        self.headers: dict[bytes, bytes] | None = None
        self.pieces: list[bytes] = []
        self.left = 0
        """Bytes of the body that are still to be read."""
        self.ended = False
        self.changed = asyncio.Event()
        self.received = self.sent = 0
        self.why_over = ""
        """Empty while the connection is alive."""

    def use(self, datagrams: _Datagrams, server: Endpoint) -> None:
        """Send and receive through these from now on."""
        if self._datagrams is not None:
            self._datagrams.close()
        self._datagrams, self._server = datagrams, server
        self.connection_made(cast(asyncio.BaseTransport, datagrams))

    def take(self, sock: socket.socket) -> float:
        """Take what has come, then answer once; seconds until it is worth while to look again."""
        now = self._loop.time()
        try:
            for _ in range(BATCH):
                self._quic.receive_datagram(sock.recv(LARGEST), self._server, now)
        except BlockingIOError:
            pass
        except OSError as error:  # ICMP: nobody listens there
            self.over(error.strerror or str(error))
            return 0
        self._process_events()
        self.transmit()
        return PAUSE if self.left > LONG else 0

    def request(self, headers: Mapping[str, str]) -> None:
        """Send one; then there is an answer to be read."""
        self.headers, self.ended = None, False
        self._stream_id = self._quic.get_next_available_stream_id()
        lines = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._http.send_headers(self._stream_id, lines, end_stream=True)
        self.sent += self._quic._streams[self._stream_id].sender._buffer_stop
        self.transmit()

    def read(self) -> bytes:
        """What there is of the body."""
        data = b"".join(self.pieces)
        self.pieces.clear()
        self.left -= len(data)
        self._quic.unread = 0
        stream = self._quic._streams.get(self._stream_id)
        if stream is not None and self._quic.room(stream):
            self.transmit()
        return data

    def finish(self) -> None:
        """The answer has been read, or the rest of it is not wanted."""
        if not self.ended and not self.why_over:
            self._quic.stop_stream(self._stream_id, ErrorCode.H3_REQUEST_CANCELLED)
            self.transmit()
        self.pieces.clear()
        self._quic.unread, self._stream_id, self.left = 0, -1, 0

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.over(event.reason_phrase or "it has closed the connection")
        elif isinstance(event, StreamReset) and event.stream_id == self._stream_id:
            self.over("it has broken its answer off")
        elif isinstance(event, StreamDataReceived) and event.stream_id == self._stream_id:
            self.received += len(event.data)
        for message in self._http.handle_event(event):
            if not isinstance(message, (HeadersReceived, DataReceived)) or message.stream_id != self._stream_id:
                continue
            if isinstance(message, HeadersReceived):
                self.headers = self.headers or dict(message.headers)
            elif message.data:
                self.pieces.append(message.data)
                self._quic.unread += len(message.data)
            self.ended = message.stream_ended
            self.changed.set()

    def over(self, why: str) -> None:
        """The connection is of no use any more."""
        self.why_over = self.why_over or why
        self.changed.set()
        if self._connected_waiter is not None and not self._connected_waiter.done():
            self._connected_waiter.set_exception(ConnectionError(why))
            self._connected_waiter = None

    def drop(self) -> None:
        """Tell the server, as far as it listens, and be gone."""
        self.close()
        self._connected_waiter = None  # nobody waits
        self.over("the connection has been closed")
        if self._timer is not None:
            self._timer.cancel()
        if self._datagrams is not None:
            self._datagrams.close()

    def observed(self) -> Mapping[str, Any]:
        """Of its round-trip times, what is known, in seconds."""
        loss = self._quic._loss
        return {"srtt": loss._rtt_smoothed, "min_rtt": loss._rtt_min} if loss._rtt_initialized else {}


class _Datagrams:
    """A socket, as much of a transport as aioquic wants."""

    def __init__(self, sock: socket.socket, exchange: _Exchange) -> None:
        self._sock, self._exchange = sock, exchange
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock, self._read)

    def _read(self) -> None:
        pause = self._exchange.take(self._sock)
        if pause and self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._pause = self._loop.call_later(pause, self._listen)

    def sendto(self, data: bytes, _address: object) -> None:
        """Send, or lose it: that is what datagrams are for. What is wrong with the path is seen on reading."""
        with contextlib.suppress(OSError):
            self._sock.send(data)

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._sock.close()
