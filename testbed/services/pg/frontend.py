"""Drives sessions: sockets to client and database, a thread for each session."""

from __future__ import annotations

import contextlib
import logging
import secrets
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import mtcp
from testbed.services.pg import protocol
from testbed.services.pg.effects import Answer, Ask, Cancel, Connect, Effect, Export, Receive, Register, Send, Sleep
from testbed.services.pg.session import Session
from testbed.services.pg.state import State

PIECE = 1 << 16
CONNECT = 10.0
"""Seconds for a connection to the database, or to a peer."""
Address = tuple[str, int]
log = logging.getLogger(__name__)


class FrontEnd:
    """One server's front-end, with the sessions that are here."""

    def __init__(self, database: Address, peers: Sequence[Address] = ()) -> None:
        self.database, self.peers = database, peers
        self._backends: dict[tuple[int, int], tuple[int, int]] = {}
        """The cancel keys of the backends, by those of their clients."""
        self._lock = threading.Lock()

    def serve(self, connection: mtcp.Connection) -> None:
        """Serve a connection, from wherever it is, until it ends or leaves."""
        with contextlib.suppress(ConnectionError), _Driver(self, connection) as driver:
            imported = connection.import_state()
            if imported is not None and imported.state:
                state = State.load(imported.state)
            else:
                state = State(key=(secrets.randbits(31), secrets.randbits(31)))
            try:
                driver.drive(Session(state))
            finally:
                self.forget(state.key, driver.registered)

    def register(self, key: tuple[int, int], backend: tuple[int, int]) -> None:
        with self._lock:
            self._backends[key] = backend

    def forget(self, key: tuple[int, int], backend: tuple[int, int] | None) -> None:
        """Unless the session has come back with another backend meanwhile."""
        with self._lock:
            if backend is not None and self._backends.get(key) == backend:
                del self._backends[key]

    def cancel(self, key: tuple[int, int], forwarded: bool) -> None:
        """Cancel what runs in the session with this key, here or at a peer."""
        with self._lock:
            backend = self._backends.get(key)
        if backend is not None:
            _tell(self.database, protocol.cancel_request(backend))
        elif not forwarded:
            for peer in self.peers:
                _tell(peer, protocol.cancel_request(key, protocol.CANCEL_FORWARDED))


def _tell(address: Address, request: bytes) -> None:
    """Send a cancel request; nobody answers those."""
    with contextlib.suppress(OSError), socket.create_connection(address, CONNECT) as sock:
        sock.sendall(request)
        sock.settimeout(CONNECT)
        sock.recv(1)  # its end: the request has been dealt with


class _Driver:
    """Does what one session asks."""

    def __init__(self, front_end: FrontEnd, connection: mtcp.Connection) -> None:
        self._front_end, self._client = front_end, connection
        self._database: socket.socket | None = None
        self._said = deque[bytes]()
        """By the database while it was being asked."""
        self.registered: tuple[int, int] | None = None
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> _Driver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._database is not None:
            if kind is mtcp.ConnectionMigrated and self.registered is not None:
                # It may still work, or wait for a lock, for a statement that another server does anew.
                _tell(self._front_end.database, protocol.cancel_request(self.registered))
            with contextlib.suppress(OSError):
                self._database.sendall(protocol.TERMINATE)
            self._database.close()
        self._client.close()

    def drive(self, session: Session) -> None:
        """Until the session ends; ConnectionError when it cannot go on here."""
        steps = session.run()
        with contextlib.suppress(StopIteration):
            result = None
            while True:
                result = self._do(steps.send(result))

    def _do(self, effect: Effect) -> Any:
        match effect:
            case Ask(data):
                return self._ask(data)
            case Answer():
                return self._answer()
            case Receive():
                return self._receive()
            case Export(dump, hold):
                if self._client.migratable:
                    self._client.export_state(dump(), hold)
            case Send(data):
                self._client.sendall(data)
            case Connect(startup):
                return self._connect(startup)
            case Register(key, backend):
                self.registered = backend
                self._front_end.register(key, backend)
            case Cancel(key, forwarded):
                self._front_end.cancel(key, forwarded)
            case Sleep(seconds):
                time.sleep(seconds)
        return None

    def _connect(self, startup: bytes) -> bool:
        try:
            self._database = socket.create_connection(self._front_end.database, CONNECT)
        except OSError as error:
            log.warning("no connection to the database: %s", error)
            return False
        self._database.settimeout(None)
        self._database.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ask(startup)
        return True

    def _ask(self, data: bytes) -> None:
        database, view = self._database, memoryview(data)
        assert database is not None
        with contextlib.suppress(OSError):  # what it said before it went is still to be read
            while view:
                try:
                    view = view[database.send(view, socket.MSG_DONTWAIT) :]
                except BlockingIOError:
                    self._listen_until_writable(database)

    def _listen_until_writable(self, database: socket.socket) -> None:
        """A pipeline's statements are not read on while nobody reads the first ones' answers."""
        poll = select.poll()
        poll.register(database, select.POLLIN | select.POLLOUT)
        [(_, ready)] = poll.poll()
        if ready & select.POLLIN:
            said = database.recv(PIECE)
            if not said:
                raise ConnectionResetError
            self._said.append(said)

    def _answer(self) -> bytes:
        """From the database; ConnectionMigrated when the connection leaves meanwhile."""
        database = self._database
        assert database is not None
        if self._said:
            return self._said.popleft()
        poll = select.poll()
        poll.register(database, select.POLLIN)
        poll.register(self._client.fileno(), 0)
        while True:
            ready = dict(poll.poll())
            if database.fileno() in ready:
                return _read(database)
            # It has left, or the client has gone: one of the two says so.
            with contextlib.suppress(BlockingIOError):
                self._client.settimeout(0)
                try:
                    self._client.send(b"")
                finally:
                    self._client.settimeout(None)
                poll.unregister(self._client.fileno())  # as PostgreSQL, which notices when it answers

    def _receive(self) -> tuple[str, bytes]:
        database = self._database
        if self._said:
            return "backend", self._said.popleft()
        if database is None:
            return "client", self._client.recv(PIECE)
        poll = select.poll()
        poll.register(database, select.POLLIN)
        poll.register(self._client.fileno(), select.POLLIN)
        ready = dict(poll.poll())
        if database.fileno() in ready:
            return "backend", _read(database)
        return "client", self._client.recv(PIECE)


def _read(database: socket.socket) -> bytes:
    try:
        return database.recv(PIECE)
    except ConnectionError:
        return b""
