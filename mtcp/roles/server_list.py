"""The papers' "additional servers information": a server tells its client where else the connection may go."""

from __future__ import annotations

from mtcp.address import Endpoint
from mtcp.errors import RemoteProtocolError
from mtcp.roles.repetition import Repetition
from mtcp.wire.options import AddServers, AddServersAck, is_authentic

NO_LIST = 0
"""Version of a list that no server tells: the client confirms it when it has none, and would have one."""


class KnownServers:
    """The client's copy of the list."""

    TIMES = 20

    def __init__(self, key: bytes) -> None:
        self.servers: list[Endpoint] = []
        self._question: Repetition | None = None
        """NO_LIST to the server that has the connection, after a restart of the client's agent."""
        self._key = key
        self._teller: Endpoint | None = None
        self._version = 0
        self._parts: dict[int, tuple[Endpoint, ...]] = {}

    def add(self, option: AddServers, teller: Endpoint) -> AddServersAck | None:
        """Take one segment of `teller`; the answer to send, once the list is complete.

        `teller` itself is one of the servers: the connection may return to it. RemoteProtocolError when forged.
        """
        if not is_authentic(option, self._key):
            raise RemoteProtocolError(f"ADD_SERVERS from {teller} with a wrong MAC; dropped")
        if (teller, option.version) != (self._teller, self._version):
            self._teller, self._version, self._parts = teller, option.version, {}
        self._parts[option.index] = option.servers
        if len(self._parts) < option.total:
            return None
        listed = [server for _, part in sorted(self._parts.items()) for server in part]
        self.servers = [*listed, teller]
        self._question = None
        return AddServersAck(option.version).signed(self._key)

    def ask(self, now: float) -> None:
        """From now on `due` has something to send, until there is a list."""
        self._question = Repetition(self.TIMES, now)

    @property
    def deadline(self) -> float | None:
        """When to ask next."""
        return self._question.deadline if self._question is not None else None

    def due(self, now: float) -> AddServersAck | None:
        """What to send to the server that has the connection now, if anything; sets the next deadline."""
        asks = self._question is not None and self._question.is_due(now)
        return AddServersAck(NO_LIST).signed(self._key) if asks else None


class Announcement(Repetition):
    """The server's side: the segments to send until the client confirms."""

    TIMES = 20

    def __init__(self, key: bytes, version: int, servers: list[Endpoint], now: float) -> None:
        super().__init__(self.TIMES, now)
        self.segments = [segment.signed(key) for segment in AddServers.split(version, servers)]
        self._key = key
        self._version = version

    def due(self, now: float) -> list[AddServers]:
        """What to send now, perhaps nothing; sets the next deadline."""
        return self.segments if self.is_due(now) else []

    def confirm(self, option: AddServersAck, now: float) -> None:
        """The client's answer, or its word that it has no list (NO_LIST); RemoteProtocolError when forged."""
        if not is_authentic(option, self._key):
            raise RemoteProtocolError("ADD_SERVERS_ACK with a wrong MAC; dropped")
        if option.version == self._version:
            self.stop()
        elif option.version == NO_LIST and self.deadline is None:
            self.start(self.TIMES, now)
