"""The agent's server side: this host's applications, and the connections that they give away and take."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import Any

from mtcp.address import Endpoint, FourTuple
from mtcp.agent.advising import Advisor
from mtcp.agent.attaching import attach, own_socket
from mtcp.agent.control import ControlConnection, ControlNetwork
from mtcp.agent.draining import Drain, Report
from mtcp.agent.events import EventLog
from mtcp.agent.holding import ServerConnection
from mtcp.agent.local import Channel
from mtcp.agent.taking import Taking
from mtcp.errors import MtcpError, NotMigratable, Reason, RemoteProtocolError
from mtcp.linux.datapath import Datapath
from mtcp.linux.segments import ControlSegments, Segment
from mtcp.pool import Pool, Server
from mtcp.states import NewServer, OldServer
from mtcp.wire.frames import Done, Frame, Release, StateReject, StateRequest
from mtcp.wire.options import Ack3, AddServersAck, AnyOption, HintAck, HintReason, Migrate, Refusal

log = logging.getLogger(__name__)
MAX_PENDING, MAX_PENDING_OF_CLIENT = 1024, 64
"""Attempts of which the old server has not said yet that they are genuine: in all, and of one client address."""

SETTLING = 3.0
"""Seconds within which applications have come back to an agent that has begun anew (mtcp.reattaching)."""


class ServerSide:
    """Everything that this host does as a server of a pool."""

    def __init__(
        self, pool: Pool, own: Server, datapath: Datapath, segments: ControlSegments, events: EventLog
    ) -> None:
        self._own = own
        self.others = pool.others(own.name)
        self.control = ControlNetwork(own, self.others, pool.credentials, self._on_frame)
        self.advisors: list[Advisor] = []
        """The server's policies at work."""
        self.drain: Drain | None = None
        """What `mtcp drain` has begun; meanwhile this server takes no connections from others."""
        self.datapath = datapath
        self._segments = segments
        self._events = events
        self._settled_at = time.monotonic() + SETTLING
        self._listeners: dict[int, list[Channel]] = {}
        self._connections: dict[FourTuple, ServerConnection] = {}
        self._takings: dict[bytes, Taking] = {}
        """By tag: whoever forges a MIGRATE of a connection makes an attempt of his own, and no difference to ours."""

    # -- for ServerConnection and Taking

    def send(self, segment: Segment) -> None:
        try:
            self._segments.send(segment)
        except OSError as e:
            log.warning("cannot send to %s: %s", segment.four_tuple.remote, e.strerror)

    def event(self, name: str, subject: ServerConnection | Taking, attempt: int, **details: Any) -> None:
        self._events.emit(name, connection=subject.four_tuple.remote, attempt=attempt, **details)

    def application_for(self, port: int) -> Channel | None:
        """A process that listens on `port`; when several do, each in its turn."""
        channels = self._listeners.get(port)
        if not channels:
            return None
        channels.append(channels.pop(0))
        return channels[-1]

    def superseded(self, taking: Taking) -> None:
        """The old server has answered `taking`: what this host knew of the connection before is over."""
        now = time.monotonic()
        for other in self._takings.values():
            if other.four_tuple == taking.four_tuple and other.role.attempt < taking.role.attempt:
                other.role.superseded(now)
        connection = self._connections.get(taking.four_tuple)
        if connection is not None and connection.role.state is OldServer.FENCED:
            connection.role.came_back(taking.role.attempt, now)

    def connection(self, four_tuple: FourTuple) -> ServerConnection | None:
        """What is known under this name."""
        return self._connections.get(four_tuple)

    def add(self, connection: ServerConnection) -> None:
        self._connections[connection.four_tuple] = connection

    def add_taking(self, taking: Taking) -> None:
        self._takings[taking.role.tag] = taking

    # -- applications

    def listen(self, channel: Channel, fds: list[int]) -> None:
        """`channel` is about to listen with the socket that it shows; NotMigratable when it shows none.

        Who can bind to a port may have its connections, and nobody else.
        """
        if len(fds) != 1:
            raise NotMigratable("listen needs one descriptor: the socket, bound to its port")
        try:
            with own_socket(fds[0]) as sock:
                port = int(sock.getsockname()[1])
        except OSError as error:
            raise NotMigratable(f"listen: {error}") from error
        if not port:
            raise NotMigratable("listen needs a socket that is bound to its port")
        self.datapath.listen(port)
        channels = self._listeners.setdefault(port, [])
        if channel not in channels:
            channels.append(channel)

    def unlisten(self, channel: Channel, port: int) -> None:
        channels = self._listeners.get(port, [])
        if channel in channels:
            channels.remove(channel)
        if not channels:
            self._listeners.pop(port, None)
            self.datapath.unlisten(port)

    def attach(self, channel: Channel, fds: list[int], again: bool) -> None:
        """`channel` has accepted a connection, or had it when another agent of this host ended; NotMigratable."""
        try:
            attach(self, channel.pid, fds, again)
        except NotMigratable as error:
            if not again:
                raise
            capsule = os.fstat(fds[1]).st_ino if len(fds) > 1 else 0
            log.warning("%s", error)
            channel.send({"op": "refused", "capsule": capsule, "error": str(error)})

    def on_channel_closed(self, channel: Channel) -> None:
        """A process listens no longer."""
        for port in [port for port, channels in self._listeners.items() if channel in channels]:
            self.unlisten(channel, port)

    # -- the network

    def on_segment(self, segment: Segment, now: float) -> None:
        """A control segment for a server."""
        option = segment.option
        match option:
            case Migrate():
                self._on_migrate(segment, option, now)
            case Ack3() | Refusal() if (taking := self._attempt(segment.four_tuple, option.attempt)) is not None:
                taking.role.on_ack3(option, now) if isinstance(option, Ack3) else taking.role.on_refusal(option, now)
            case AddServersAck():
                connection = self._connections.get(segment.four_tuple)
                if connection is not None and connection.announcement is not None:
                    connection.announcement.confirm(option, now)
            case HintAck():
                connection = self._connections.get(segment.four_tuple)
                if connection is not None:
                    connection.hints.confirm(option)
            case None:
                pass
            case _:
                self._on_option(segment.four_tuple, option, now)

    def _attempt(self, four_tuple: FourTuple, attempt: int) -> Taking | None:
        """The client's attempt of this number: one that the old server has answered, for others may be forged."""
        for taking in self._takings.values():
            if taking.four_tuple == four_tuple and taking.role.attempt == attempt and taking.role.key is not None:
                return taking
        return None

    def _on_option(self, four_tuple: FourTuple, option: AnyOption, now: float) -> None:
        connection = self._connections.get(four_tuple)
        if connection is None:
            raise RemoteProtocolError(f"{option.subtype.name} for {four_tuple}, which is not here; dropped")
        connection.role.on_option(option, now)

    def _on_migrate(self, segment: Segment, migrate: Migrate, now: float) -> None:
        taking = self._takings.get(migrate.mac)
        if taking is None:
            if self._is_settling(now) and self.application_for(segment.four_tuple.local.port) is None:
                return
            self._make_room(segment.four_tuple.remote.ip)
            taking = self._takings[migrate.mac] = Taking(self, segment, migrate)
            self.event("migrate_received", taking, migrate.attempt)
        elif not taking.is_of(segment, migrate):
            raise RemoteProtocolError("MIGRATE with the MAC of another attempt; dropped")
        taking.role.on_migrate_syn(now)

    def _is_settling(self, now: float) -> bool:
        """Whether this agent has begun just now: what it does not know may still come. Whoever asks repeats."""
        return now < self._settled_at

    def _make_room(self, client_ip: str) -> None:
        """Bound what unauthenticated MIGRATEs can occupy: RemoteProtocolError when it is too much already."""
        pending = [t for t in self._takings.values() if t.role.key is None]
        of_client = [t for t in pending if t.four_tuple.remote.ip == client_ip]
        crowd = pending if len(pending) >= MAX_PENDING else of_client
        if len(crowd) < MAX_PENDING_OF_CLIENT:
            return
        failed = next((t for t in crowd if t.role.state is NewServer.FAILED), None)
        if failed is None:
            raise RemoteProtocolError(f"MIGRATE of {client_ip}: {len(crowd)} attempts are pending already; dropped")
        del self._takings[failed.role.tag]

    def _on_frame(self, frame: Frame, peer: ControlConnection) -> None:
        now = time.monotonic()
        try:
            match frame:
                case StateRequest():
                    if not peer.speaks_for(frame.new.local):
                        peer.send(StateReject(frame.old, frame.attempt, frame.mac, Reason.NOT_ALLOWED))
                        raise RemoteProtocolError(f"it asks for a move to {frame.new.local}; refused")
                    self._on_request(frame, now)
                case Done() | Release():
                    connection = self._connections.get(frame.old)
                    if connection is not None:
                        if not peer.speaks_for(connection.role.new_server):
                            raise RemoteProtocolError(f"{frame.old} was not given to it; dropped")
                        connection.role.on_outcome(frame, now)
                        self._go_on_draining(now)
                case _:
                    taking = self._takings.get(frame.tag)
                    if taking is not None and taking.role.old == frame.old:
                        if not peer.speaks_for(frame.old.local):
                            raise RemoteProtocolError(f"{frame.old} is not its connection; dropped")
                        taking.role.on_frame(frame, now)
        except RemoteProtocolError as error:
            log.warning("%s from %s: %s", frame.type.name, peer.name, error)

    def _on_request(self, request: StateRequest, now: float) -> None:
        connection = self._connections.get(request.old)
        if connection is None and self._is_settling(now):
            return
        if connection is None:
            reject = StateReject(request.old, request.attempt, request.mac, Reason.UNKNOWN_CONNECTION)
            self.send_frame(request.new.local, reject)
            return
        self.event("request_received", connection, request.attempt)
        connection.role.on_request(request, now)
        if request.attempt != connection.role.attempt:
            return
        for taking in self._takings.values():
            if taking.four_tuple == connection.four_tuple and taking.role.attempt < request.attempt:
                # A client that leaves this server has committed to it, even if its ACK3 is still to come.
                taking.role.on_traffic(now)

    def send_frame(self, server: Endpoint, frame: Frame) -> bool:
        """To the agent of `server`; False when it cannot be reached: whoever needs an answer repeats."""
        connection = self.control.to(server)
        return connection is not None and connection.send(frame)

    # -- time

    def on_timer(self, now: float) -> None:
        """Repeat what is due, forget what is over."""
        for taking in list(self._takings.values()):
            taking.poll(now)
            taking.role.on_timer(now)
            if now >= taking.ends_at and taking.role.state in (NewServer.OWNED, NewServer.FAILED):
                self._takings.pop(taking.role.tag, None)
        for connection in list(self._connections.values()):
            connection.on_timer(now)
            if connection.ends_at is not None and now >= connection.ends_at:
                del self._connections[connection.four_tuple]
        for advisor in self.advisors:
            advisor.on_timer(now)
        self._go_on_draining(now)
        self.datapath.refill_keys()

    def _go_on_draining(self, now: float) -> None:
        if self.drain is not None and self.drain.on_timer(now):
            self.drain = None

    def deadlines(self) -> Iterator[float]:
        """When somebody wants to be woken."""
        for advisor in self.advisors:
            yield advisor.deadline
        for taking in self._takings.values():
            if taking.role.deadline is not None:
                yield taking.role.deadline
        for connection in self._connections.values():
            yield from connection.deadlines()

    # -- commands

    def connections(self) -> list[ServerConnection]:
        """All that are here or were lately."""
        return list(self._connections.values())

    def pids(self) -> set[int]:
        """The processes of this host's applications."""
        listening = {channel.pid for channels in self._listeners.values() for channel in channels}
        return listening | {c.pid for c in self._connections.values() if c.has_application}

    def hint(self, client: str, reason: HintReason, to: str | None) -> None:
        """`mtcp hint`: ask the client of one connection; MtcpError when there is none."""
        ends = [str(c.four_tuple.remote) for c in self._connections.values() if c.role.state is OldServer.ESTABLISHED]
        if client not in ends:
            raise MtcpError(f"no connection of {client!r} here; there are {', '.join(ends) or 'none'}")
        (connection,) = (c for c in self._connections.values() if str(c.four_tuple.remote) == client and not c.has_left)
        target = self._other(to).place_of(connection.four_tuple.local) if to else None
        connection.hint(reason, target, time.monotonic())

    def start_drain(self, to: str | None, seconds: float, report: Report) -> None:
        """`mtcp drain`; MtcpError when one is under way."""
        if self.drain is not None:
            raise MtcpError("this server is being drained already; wait for that to end")
        targets = [self._other(to)] if to else self.others
        self.drain = Drain(self, targets, time.monotonic() + seconds, report)

    def _other(self, name: str) -> Server:
        """Another server of the pool, by its name or address."""
        for server in self.others:
            if name in (server.name, *server.services):
                return server
        raise MtcpError(f"{name!r} is no other server of the pool; there are {', '.join(s.name for s in self.others)}")

    def rows(self) -> list[dict[str, Any]]:
        """For `mtcp ls`."""
        return [
            {
                "role": "server",
                "connection": str(c.four_tuple.remote),
                "server": str(c.four_tuple.local),
                "state": c.role.state.name,
                "moves": c.moves,
                "application": c.pid if c.has_application else None,
            }
            for c in self._connections.values()
            if c.role.state in (OldServer.ESTABLISHED, OldServer.FENCED)
        ]

    def status(self) -> dict[str, Any]:
        return {
            "listeners": {str(port): [c.pid for c in channels] for port, channels in self._listeners.items()},
            "control": self.control.status(),
            "server_connections": sum(c.role.state is OldServer.ESTABLISHED for c in self._connections.values()),
            "draining": "yes" if self.drain is not None else "no",
            "pending_attempts": sum(taking.role.reply is None for taking in self._takings.values()),
        }
