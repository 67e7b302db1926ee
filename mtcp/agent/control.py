"""Control connections between the agents of a pool: each dials every other, by mutual TLS 1.3, and keeps it open."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from mtcp import pki
from mtcp.address import Endpoint
from mtcp.errors import RemoteProtocolError
from mtcp.pool import Server
from mtcp.wire.frames import MAX_BODY, Frame, FrameReader, encode

log = logging.getLogger(__name__)
REDIAL_FIRST, REDIAL_LAST = 0.05, 1.0
"""Seconds between attempts to reach an agent that is not there: doubled each time, from the first to the last."""
HANDSHAKE = 3.0
"""Seconds that may pass until both sides know each other, from the first segment on."""
MAX_PENDING = 64
"""Accepted connections whose handshake is not over; one more, and the oldest has to go."""
SILENCE_MS = 5000
"""Milliseconds for which a peer may leave data unacknowledged, or a full buffer unread, before it counts as gone."""
CHUNK = 1 << 18
"""Bytes that are encrypted at a time: between them the agent does other things."""
MAX_QUEUED = 2 * MAX_BODY
"""Bytes that may wait for a peer that reads slowly."""


class ControlConnection(asyncio.Protocol):
    """One control connection, dialled or accepted; the certificate says with whom."""

    def __init__(
        self,
        peers: Mapping[str, Server],
        on_frame: Callable[[Frame, ControlConnection], None],
        on_open: Callable[[ControlConnection], None],
    ) -> None:
        """`peers`: who may be at the other end, by name. `on_open` hears of the connection before its first frame."""
        self.server: Server | None = None
        """Who is there; None when that is none of the peers: such a connection is closed at once."""
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why it has ended, when it has."""
        self._peers = peers
        self._on_frame = on_frame
        self._on_open = on_open
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[Frame, memoryview]] = deque()
        """Frames, oldest first, and what is still to be written of each."""
        self._queued = 0
        self._writes = True
        self._next: asyncio.Handle | None = None

    @property
    def name(self) -> str:
        """The peer's name in the pool."""
        return self.server.name if self.server else "a stranger"

    def speaks_for(self, server: Endpoint | None) -> bool:
        """Whether the peer is the server with this service address."""
        return self.server is not None and server is not None and server.ip in self.server.services

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        name = pki.peer_name(transport.get_extra_info("ssl_object"))
        self.server = self._peers.get(name)
        if self.server is None:
            self.abort(f"the certificate is of {name or 'nobody'}, who is not expected")
            return
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MS)
        self._on_open(self)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for frame in self._reader.feed(data):
                self._on_frame(frame, self)
        except RemoteProtocolError as error:
            log.warning("control connection with %s: %s; closed", self.name, error)
            self.abort(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(_reason(exc) if exc else "closed by the other side")

    def _end(self, reason: str) -> None:
        self._transport = None
        self._queue.clear()
        self._queued = 0
        if self._next is not None:
            self._next.cancel()
        if not self.closed.done():
            self.closed.set_result(reason)

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, frame: Frame) -> bool:
        """False when the connection is gone: whoever needs an answer repeats.

        A frame that still waits to be written is not queued again: repetitions of a long one would pile up.
        """
        if self._transport is None:
            return False
        if any(waiting is frame for waiting, _ in self._queue):
            return True
        data = memoryview(encode(frame))
        if self._queued + len(data) > MAX_QUEUED:
            log.warning("control connection with %s: %d bytes wait to be read; closed", self.name, self._queued)
            self.abort("it did not read")
            return False
        idle = not self._queue
        self._queue.append((frame, data))
        self._queued += len(data)
        if idle and self._writes:
            self._write()
        return True

    def _write(self) -> None:
        """Write a piece of what waits; the rest in later turns of the loop."""
        self._next = None
        if self._transport is None or not self._queue or not self._writes:
            return
        frame, data = self._queue.popleft()
        piece, rest = data[:CHUNK], data[CHUNK:]
        if rest:
            self._queue.appendleft((frame, rest))
        self._queued -= len(piece)
        if self._queue:
            self._next = asyncio.get_running_loop().call_soon(self._write)
        self._transport.write(piece)

    def pause_writing(self) -> None:
        self._writes = False

    def resume_writing(self) -> None:
        self._writes = True
        if self._next is None:
            self._write()

    def abort(self, reason: str) -> None:
        """Close it now, whatever waits to be written."""
        transport = self._transport
        self._end(reason)
        if transport is not None:
            transport.abort()


class ControlNetwork:
    """This agent's control connections."""

    def __init__(
        self,
        own: Server,
        others: list[Server],
        credentials: Path,
        on_frame: Callable[[Frame, ControlConnection], None],
    ) -> None:
        """MtcpError when the directory `credentials` does not have what `own` needs."""
        self._own = own
        self._others = {server.name: server for server in others}
        self._credentials = pki.Credentials(credentials, own.name)
        self._on_frame = on_frame
        self._dialled: dict[str, ControlConnection] = {}
        self._accepted: dict[str, ControlConnection] = {}
        self._pending: dict[asyncio.Task[None], str] = {}
        """Handshakes, oldest first, and the addresses with which they are."""
        self._tasks: list[asyncio.Task[None]] = []
        self._listener: socket.socket | None = None

    async def start(self) -> None:
        """Listen, and dial the others in the background; OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        ip, port = self._own.control
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self._listener = socket.create_server((ip, port), family=family, backlog=MAX_PENDING)
        self._listener.setblocking(False)
        self._tasks = [loop.create_task(self._keep(server)) for server in self._others.values()]
        self._tasks.append(loop.create_task(self._accept(self._listener)))

    # -- dialling

    async def _keep(self, server: Server) -> None:
        loop = asyncio.get_running_loop()
        pause, said = REDIAL_FIRST, ""
        while True:
            opened, lasted = None, False
            try:
                async with asyncio.timeout(HANDSHAKE):
                    connection = await self._dial(server)
                opened = loop.time()
                reason = await connection.closed
            except OSError as error:
                reason = _reason(error)
            if opened is not None:
                # Who refuses us does so only when our side of the handshake is over: that is no success.
                lasted = loop.time() - opened > 2 * REDIAL_LAST
                reason = reason if lasted else "it let go at once, its log may say why"
            if reason != said or lasted:
                log.warning("control connection to %s: %s; dialling again", server.name, reason)
            pause = REDIAL_FIRST if lasted else min(2 * pause, REDIAL_LAST)
            said = reason
            await asyncio.sleep(pause)

    async def _dial(self, server: Server) -> ControlConnection:
        ip, port = server.control
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: ControlConnection({server.name: server}, self._on_frame, self._on_dialled),
            ip,
            port,
            local_addr=(self._own.control.ip, 0),
            ssl=self._credentials.current().dialling,
            server_hostname=server.name,
        )
        return connection

    def _on_dialled(self, connection: ControlConnection) -> None:
        assert connection.server is not None
        self._dialled |= dict.fromkeys(connection.server.services, connection)

    # -- accepting

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("cannot accept a control connection: %s", _reason(error))
                await asyncio.sleep(REDIAL_LAST)
                continue
            if len(self._pending) >= MAX_PENDING:
                oldest = next(iter(self._pending))
                log.warning("control connection from %s refused: too many others wait", self._pending.pop(oldest))
                oldest.cancel()
            task = loop.create_task(self._welcome(sock, address[0]))
            self._pending[task] = address[0]
            task.add_done_callback(lambda task: self._pending.pop(task, None))

    async def _welcome(self, sock: socket.socket, address: str) -> None:
        """Learn who has dialled."""
        try:
            _, connection = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: ControlConnection(self._others, self._on_frame, self._on_accepted),
                sock,
                ssl=self._credentials.current().accepting,
                ssl_handshake_timeout=HANDSHAKE,
            )
        except OSError as error:
            reason = _reason(error)
        else:
            if connection.server is not None:
                return
            reason = await connection.closed
        log.warning("control connection from %s refused: %s", address, reason)

    def _on_accepted(self, connection: ControlConnection) -> None:
        """Each peer has one: when it dials anew, its end of the one before is gone."""
        name = connection.name
        before = self._accepted.get(name)
        self._accepted[name] = connection
        if before is not None:
            before.abort("dialled anew")
        log.info("control connection from %s", name)

    # -- for the agent

    def to(self, server: Endpoint) -> ControlConnection | None:
        """The open connection to the agent of the server with this service address."""
        connection = self._dialled.get(server.ip)
        return connection if connection and connection.is_open else None

    def status(self) -> dict[str, bool]:
        """Server name -> whether its agent is connected."""
        dialled = self._dialled
        return {n: bool((c := dialled.get(s.service)) and c.is_open) for n, s in self._others.items()}

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._pending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        for connection in (*self._dialled.values(), *self._accepted.values()):
            connection.abort("this agent ends")


def _reason(error: Exception) -> str:
    """One line for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
