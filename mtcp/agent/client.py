"""The agent's client side: connections that this host's applications have opened, and the mapping that moves them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mtcp.address import Endpoint, FourTuple
from mtcp.agent.events import EventLog
from mtcp.agent.observing import Observer
from mtcp.agent.probing import Servers
from mtcp.agent.received import up_to_date
from mtcp.errors import LocalProtocolError, MtcpError, RemoteProtocolError
from mtcp.linux.datapath import Datapath, Entry, Event, EventKind
from mtcp.linux.segments import ControlSegments, Segment, TcpFlags
from mtcp.linux.sockdiag import SockDiag
from mtcp.policy import Policy, View
from mtcp.roles.client import ClientRole, Mark
from mtcp.roles.hints import HintReceiver
from mtcp.roles.server_list import KnownServers
from mtcp.states import Client
from mtcp.wire.options import AbortAck, Accept, AddServers, AnyOption, Hint, HintAnswer, Migrate, Query, Reject

log = logging.getLogger(__name__)
CONFIRM_AFTER = 0.003
"""Seconds from a commit to ACK3. Nobody waits for it; the new server's application, on hosts that share processors with
this one, does wait for those."""

SWEEP, SWEEP_EVERY = 16, 0.5
"""Sockets to look for at a time, and seconds between times: a few tens of microseconds, so that no move waits long."""
FOR_CLIENTS = (AddServers, Accept, Reject, AbortAck, Query, Hint)
"""The options that servers send."""

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Move:
    """An attempt under way, and who wants to know how it ends."""

    decided_ns: int
    source: Endpoint
    initiator: str
    report: Report


class ClientConnection:
    """One connection at the client; the port of its role."""

    def __init__(self, entry: Entry, side: ClientSide) -> None:
        self.index = entry.index
        self.cookie = entry.cookie
        self.four_tuple = entry.four_tuple
        self.known = KnownServers(entry.key)
        self.role = ClientRole(entry.four_tuple, entry.key, entry.current, self)
        self.moves = 0
        """How often it has moved since this agent knows it."""
        self.confirm_at: float | None = None
        """When to take note of a commit that the mapping has made."""
        self._side = side
        self._move: Move | None = None
        self._begun = entry
        """As the last move's begin left it."""
        self.observer = Observer(entry, side.policy, side.sockets, side.servers)
        self._hints = HintReceiver(entry.key)
        self.role.attempt = entry.attempt

    def recover(self, now: float) -> None:
        """Go on for an agent that has ended: its moves are withdrawn unless they have committed."""
        self.known.ask(now)
        self.role.recover(self._begun.next, self._begun.attempt, now)

    def migrate(self, server: Endpoint, initiator: str, report: Report) -> None:
        """Start a move; LocalProtocolError when that cannot be now. `initiator`: who wants it, for the log."""
        source = self.role.current
        if self.role.state is Client.GONE:
            raise LocalProtocolError(f"{self.four_tuple} has ended")
        if self.role.state is not Client.TRACKED:
            raise LocalProtocolError(f"a move of {self.four_tuple} is under way already; wait for its end")
        self._move = Move(time.monotonic_ns(), source, initiator, report)
        self._side.register(self, server)
        self.role.migrate(server, time.monotonic())

    # -- the policy

    def observe(self, now: float) -> None:
        """Let the policy look, and move if it says so."""
        if self.role.state is Client.TRACKED and (server := self.observer.policy.observe(self._view(now))) is not None:
            self._try(server, "policy")
        self.observer.again(now)

    def on_hint(self, hint: Hint, server: Endpoint, now: float) -> None:
        """The server that has the connection asks to be left; RemoteProtocolError when it is another one, or forged."""
        if server != self.role.current:
            raise RemoteProtocolError(f"HINT from {server}, which does not have the connection; dropped")
        wanted: list[Endpoint] = []

        def decide() -> HintAnswer:
            self._side.events.emit("hinted", connection=self.four_tuple.local, reason=hint.reason.name, server=server)
            self._side.servers.complained(server, now)
            view = self._view(now)
            if not view.others:
                return HintAnswer.NOWHERE
            if self.role.state is not Client.TRACKED:
                return HintAnswer.NOT_NOW
            chosen = self.observer.policy.hinted(view, hint)
            wanted.extend([chosen] if chosen is not None else [])
            return HintAnswer.WILL_MOVE if wanted else HintAnswer.DECLINED

        self.send(server, self._hints.hear(hint, decide))
        for chosen in wanted:
            self._try(chosen, f"hint: {hint.reason.name.lower()}")

    def _try(self, server: Endpoint, initiator: str) -> None:
        try:
            self.migrate(server, initiator, lambda _: None)
        except MtcpError as error:
            log.info("%s does not move to %s: %s", self.four_tuple.local, server, error)

    def _view(self, now: float) -> View:
        others = tuple(s for s in self.known.servers if s != self.role.current)
        return self.observer.view(self._side.datapath.entry(self.index), self.role.current, others, now)

    # -- ClientPort

    def begin_mapping(self, server: Endpoint) -> Mark:
        entry = self._side.datapath.entry(self.index)
        accept = Accept(entry.next_attempt).signed(entry.key)
        try:
            self._begun = up_to_date(self._side.datapath.begin(entry, server, accept.mac), self._side.sockets)
        except ValueError as e:
            raise LocalProtocolError(str(e)) from e
        return Mark(self._begun.rcv_nxt, self._begun.attempt)

    def abort_mapping(self) -> bool:
        # As begin returned it: an entry read anew is no longer MIGRATING if the move has just committed.
        return self._side.datapath.abort(self._begun)

    def send(self, server: Endpoint, option: AnyOption) -> None:
        four_tuple = FourTuple(self.four_tuple.local, server)
        if isinstance(option, Migrate):
            at = self._begun
            self._side.send(Segment(four_tuple, at.snd_nxt, 0, TcpFlags.SYN, at.window, option))
            self._side.events.emit("migrate_sent", connection=self.four_tuple.local, attempt=option.attempt, to=server)
            return
        entry = self._side.datapath.entry(self.index)
        self._side.send(Segment(four_tuple, entry.snd_nxt, entry.rcv_nxt, TcpFlags.ACK, entry.window, option))

    def report(self, moved: bool, server: Endpoint, reason: str) -> None:
        move, self._move = self._move, None
        self.moves += moved
        if move is None:
            return
        committed_ns = self._side.datapath.entry(self.index).committed_at_ns if moved else 0
        outcome = {
            "outcome": "moved" if moved else "kept",
            "reason": reason,
            "connection": str(self.four_tuple.local),
            "attempt": self.role.attempt,
            "initiator": move.initiator,
            "from": str(move.source),
            "to": str(server),
            "decided_ns": move.decided_ns,
            "committed_ns": committed_ns,
        }
        self._side.events.emit("migration", **outcome)
        move.report(outcome)


class ClientSide:
    """All of this host's connections to migratable servers."""

    def __init__(
        self, datapath: Datapath, segments: ControlSegments, events: EventLog, policy: Callable[[], Policy]
    ) -> None:
        """`policy` makes one for each connection."""
        self.datapath = datapath
        self.policy = policy
        """What makes one for a new connection."""
        self.events = events
        self._segments = segments
        self.sockets = SockDiag()
        self.servers = Servers()
        self._sweep_at = 0.0
        self._unswept: list[ClientConnection] = []
        self._by_index: dict[int, ClientConnection] = {}
        self._by_ends: dict[tuple[Endpoint, Endpoint], ClientConnection] = {}
        # What has happened before is in the entries.
        datapath.events()
        for entry in datapath.entries():
            self._recover(entry, time.monotonic())

    def connections(self) -> list[ClientConnection]:
        """Those whose sockets are open."""
        return [c for c in self._by_index.values() if c.role.state is not Client.GONE]

    def register(self, connection: ClientConnection, server: Endpoint) -> None:
        """Segments of `server` to this client's end belong to `connection` from now on."""
        ends = connection.four_tuple.local, server
        if self._by_ends.setdefault(ends, connection) is not connection:
            other = self._by_ends[ends]
            if other.role.state is not Client.GONE:
                raise LocalProtocolError(f"this client has another connection {other.four_tuple} from the same port")
            self._by_ends[ends] = connection

    def send(self, segment: Segment) -> None:
        try:
            self._segments.send(segment)
        except OSError as e:
            log.warning("cannot send to %s: %s", segment.four_tuple.remote, e.strerror)

    def on_datapath(self) -> None:
        """The mapping has events."""
        now = time.monotonic()
        for event in self.datapath.events():
            try:
                self._on_event(event, now)
            except RemoteProtocolError as error:
                log.info("%s of entry %d: %s", event.kind.name, event.index, error)

    def _on_event(self, event: Event, now: float) -> None:
        connection = self._by_index.get(event.index)
        if event.kind is EventKind.ESTABLISHED:
            entry = self.datapath.entry(event.index)
            if connection is None or connection.cookie != entry.cookie:
                self._add(entry)
            return
        if connection is None or connection.role.state is Client.GONE:
            return
        if event.kind is EventKind.COMMITTED:
            connection.confirm_at = now + CONFIRM_AFTER
        elif event.kind is EventKind.CLOSED:
            self._confirm(connection, now)
            self._closed(connection, now)
            # In TIME_WAIT a moved connection still answers late segments, and needs its mapping: `_sweep` removes that.
            if not self.datapath.entry(event.index).moved:
                self._remove(connection)

    def _confirm(self, connection: ClientConnection, now: float) -> None:
        if connection.confirm_at is None:
            return
        connection.confirm_at = None
        # An abort may have found the commit out before, and the next attempt be under way.
        migrating = connection.role.state is Client.SS_ISMIGRATING
        if migrating and self.datapath.entry(connection.index).current == connection.role.target:
            connection.role.committed(now)

    def _closed(self, connection: ClientConnection, now: float) -> None:
        self.events.emit("closed", connection=connection.four_tuple.local)
        connection.observer.end()
        connection.role.closed(now)

    def _recover(self, entry: Entry, now: float) -> None:
        """An entry that an agent which has ended left."""
        if entry.stale:
            self.datapath.remove(entry)
            return
        connection = self._add(entry)
        # Servers that had it, or were to have it, may still ask what became of that.
        for server in self.datapath.servers(entry):
            self._by_ends.setdefault((entry.four_tuple.local, server), connection)
        connection.recover(now)
        if entry.closed:
            self._closed(connection, now)
            if not entry.moved:
                self._remove(connection)

    def _add(self, entry: Entry) -> ClientConnection:
        connection = ClientConnection(entry, self)
        self._by_index[entry.index] = connection
        for server in (entry.four_tuple.remote, entry.current):
            self._by_ends[entry.four_tuple.local, server] = connection
        self.events.emit("established", connection=entry.four_tuple.local, server=entry.four_tuple.remote)
        return connection

    def on_segment(self, segment: Segment, now: float) -> None:
        """A control segment FOR_CLIENTS."""
        local, server = segment.four_tuple
        connection, option = self._by_ends.get((local, server)), segment.option
        if connection is None or option is None:
            raise RemoteProtocolError(f"control segment for {segment.four_tuple}, which is no connection here; dropped")
        if isinstance(option, AddServers):
            answer = connection.known.add(option, server)
            if answer is not None:
                connection.send(server, answer)
        elif isinstance(option, Hint):
            connection.on_hint(option, server, now)
        else:
            connection.role.on_option(server, option, now)

    def on_timer(self, now: float) -> None:
        """Repeat what is due."""
        if any(connection.observer.policy.wants_probes for connection in self._by_index.values()):
            self.servers.probe((s.ip for c in self._by_index.values() for s in c.known.servers), now)
        for connection in self._by_index.values():
            if connection.confirm_at is not None and now >= connection.confirm_at:
                self._confirm(connection, now)
            connection.role.on_timer(now)
            if connection.observer.at is not None and now >= connection.observer.at:
                connection.observe(now)
            question = connection.known.due(now)
            if question is not None:
                connection.send(connection.role.current, question)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY
            self._sweep()

    def _sweep(self) -> None:
        """Look whether some of the sockets are still there: the kernel's word on their end may have been lost."""
        if not self._unswept:
            self._unswept = list(self._by_index.values())
        for _ in range(min(SWEEP, len(self._unswept))):
            connection = self._unswept.pop()
            if self._by_index.get(connection.index) is not connection:
                continue
            # If a newer connection uses the same addresses, it is that one's socket which is there.
            if not self.datapath.entry(connection.index).stale and self.sockets.exists(connection.four_tuple):
                continue
            if connection.role.state is not Client.GONE:
                self._closed(connection, time.monotonic())
            self._remove(connection)

    def _remove(self, connection: ClientConnection) -> None:
        self.datapath.remove(self.datapath.entry(connection.index))
        del self._by_index[connection.index]
        for ends in [ends for ends, c in self._by_ends.items() if c is connection]:
            del self._by_ends[ends]

    def close(self) -> None:
        self.sockets.close()
        self.servers.close()

    def deadlines(self) -> Iterator[float]:
        """When roles want to be woken."""
        for connection in self._by_index.values():
            times = connection.role.deadline, connection.confirm_at, connection.observer.at, connection.known.deadline
            for deadline in times:
                if deadline is not None:
                    yield deadline

    # -- commands

    def obey(self, policy: Callable[[], Policy]) -> None:
        """`mtcp policy`: for new connections and those that there are."""
        self.policy = policy
        for connection in self.connections():
            connection.observer.obey(policy)

    def rows(self) -> list[dict[str, Any]]:
        """For `mtcp ls`."""
        return [
            {
                "role": "client",
                "connection": str(c.four_tuple.local),
                "server": str(c.four_tuple.remote),
                "current": str(c.role.current),
                "state": c.role.state.name,
                "moves": c.moves,
                "others": [str(s) for s in c.known.servers if s != c.role.current],
            }
            for c in self.connections()
        ]

    def migrate(self, connection: str | None, to: str | list[str], report: Report) -> None:
        """`mtcp migrate`: find the connection and the server, start; MtcpError says what was not found.

        `to`: the server's address, or all that its name has.
        """
        chosen = self._choose(connection)
        # A move may be decided on the instant the last one has committed: note that now, not when it is due.
        self.on_datapath()
        self._confirm(chosen, time.monotonic())
        addresses = [to] if isinstance(to, str) else to
        offered = [s for s in chosen.known.servers if s.ip in addresses]
        if not offered and chosen.role.current.ip in addresses:
            raise MtcpError(f"{chosen.four_tuple.local} is on {chosen.role.current.ip} already; name another server")
        if not offered:
            names = ", ".join(s.ip for s in chosen.known.servers) or "no other"
            raise MtcpError(f"{' '.join(addresses)} is not a server of this connection's pool; it has offered {names}")
        chosen.migrate(offered[0], "operator", report)

    def _choose(self, wanted: str | None) -> ClientConnection:
        open_ = self.connections()
        if wanted is not None:
            found = [c for c in open_ if wanted in (str(c.four_tuple.local), str(c.four_tuple.local.port))]
            if len(found) != 1:
                raise MtcpError(f"no migratable connection {wanted!r} here; `mtcp ls` lists them")
            return found[0]
        if len(open_) != 1:
            count = "none" if not open_ else f"{len(open_)}: name one by its port"
            raise MtcpError(f"which connection? This host has {count}; `mtcp ls` lists them")
        return open_[0]
