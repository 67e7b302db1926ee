"""The agent's process: one event loop around the client side, the server side and the local socket."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mtcp.agent.advising import Advisor, HostWatch
from mtcp.agent.client import FOR_CLIENTS, ClientSide
from mtcp.agent.events import EventLog
from mtcp.agent.local import Channel, LocalSocket, Message
from mtcp.agent.server import ServerSide
from mtcp.capsule import SIZE_MAX
from mtcp.errors import MtcpError, RemoteProtocolError
from mtcp.linux import privileges
from mtcp.linux.datapath import Datapath
from mtcp.linux.segments import ControlSegments
from mtcp.linux.tcp_repair import check_support
from mtcp.policy import DEFAULT, Policy, ServerPolicy, Spec, make
from mtcp.pool import Pool
from mtcp.wire.options import HintReason

log = logging.getLogger(__name__)
FIRST = -20
"""The agent's nice value: it takes little of a processor, and that is wanted soon."""
TICK = 0.1
"""Seconds between looks at what has no deadline of its own."""


@dataclass(frozen=True)
class Settings:
    """What `mtcp agent` was told."""

    name: str
    cgroup: Path
    interfaces: Sequence[str]
    pool: Pool | None = None
    pin: Path | None = None
    events: Path | None = None
    policy: Spec[Policy] = field(default_factory=partial(make, DEFAULT))
    """Makes one for each connection of this host's clients."""
    server_policies: Sequence[Spec[ServerPolicy]] = ()
    """When this server asks clients to leave."""


class Agent:
    """One host's agent."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        """Attach to the host; MtcpError (or a subclass) says what is missing. `stack` undoes it."""
        check_support()
        self._settings = settings
        self._server: ServerSide | None = None
        own = settings.pool.servers.get(settings.name) if settings.pool is not None else None
        if own is None and settings.server_policies:
            self._as_server()
        watches = [stack.enter_context(closing(HostWatch(settings.cgroup))) for _ in settings.server_policies]
        self._events = EventLog(settings.events)
        stack.callback(self._events.close)
        self._local = LocalSocket(self)
        stack.callback(self._local.close)
        self._datapath = Datapath.attach(settings.cgroup, settings.interfaces, settings.pin)
        stack.callback(self._datapath.close)
        self._segments = ControlSegments()
        stack.callback(self._segments.close)
        self._client = ClientSide(self._datapath, self._segments, self._events, settings.policy)
        stack.callback(self._client.close)
        if settings.pool is not None and own is not None:
            side = self._server = ServerSide(settings.pool, own, self._datapath, self._segments, self._events)
            side.advisors += [Advisor(side, p(), w) for p, w in zip(settings.server_policies, watches, strict=True)]
        self._timer: asyncio.TimerHandle | None = None
        self._tick_at = 0.0

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        loop.add_reader(self._datapath.fileno(), self._on_datapath)
        loop.add_reader(self._segments.fileno(), self._on_segments)
        if self._server is not None:
            try:
                await self._server.control.start()
            except OSError as e:
                raise MtcpError(f"cannot listen on the control address: {e.strerror}; is another agent there?") from e
        self._on_timer()
        # What was made so far lives as long as the agent; a collection in the middle of a move would cost milliseconds.
        gc.freeze()
        _hurry()
        privileges.drop()
        print("ready", flush=True)
        await stop.wait()
        if self._timer is not None:
            self._timer.cancel()
        for reader in (self._datapath, self._segments):
            loop.remove_reader(reader.fileno())
        if self._server is not None:
            await self._server.control.stop()

    def _on_datapath(self) -> None:
        self._client.on_datapath()
        self._reschedule()

    def _on_segments(self) -> None:
        now = time.monotonic()
        for segment in self._segments.receive():
            try:
                if isinstance(segment, RemoteProtocolError):
                    raise segment
                if isinstance(segment.option, FOR_CLIENTS):
                    # A connection's first control segment may overtake the event that announces the connection.
                    self._client.on_datapath()
                    self._client.on_segment(segment, now)
                elif self._server is not None:
                    self._server.on_segment(segment, now)
            except RemoteProtocolError as error:
                log.warning("%s", error)
        self._reschedule()

    def _on_timer(self) -> None:
        now = time.monotonic()
        self._tick_at = now + TICK
        try:
            self._client.on_timer(now)
            if self._server is not None:
                self._server.on_timer(now)
        except MtcpError as error:
            log.warning("%s", error)
        finally:
            self._events.flush()
            self._reschedule()

    def _reschedule(self) -> None:
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        deadlines = [self._tick_at, *self._client.deadlines()]
        if self._server is not None:
            deadlines += self._server.deadlines()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(max(0.001, min(deadlines) - now), self._on_timer)

    # -- the local socket

    def on_channel_closed(self, channel: Channel) -> None:
        self._events.unsubscribe(channel)
        if self._server is not None:
            self._server.on_channel_closed(channel)

    def on_message(self, channel: Channel, message: Message, fds: list[int]) -> None:
        match message["op"]:
            case "attach":
                self._as_server().attach(channel, fds, bool(message.get("again")))
                self._reschedule()
            case "listen":
                channel.log_size = _size(message, "log_size", channel.log_size, least=1)
                channel.state_max = _size(message, "state_max", channel.state_max, least=0)
                self._as_server().listen(channel, fds)
                channel.send({"ok": True})
            case "ls":
                channel.send({"connections": self._client.rows() + (self._server.rows() if self._server else [])})
            case "status":
                channel.send(self._status())
            case "migrate":
                self._migrate(channel, message)
            case "policy":
                self._policy(channel, message.get("policy"))
            case "watch":
                self._check_may_command(channel, "watch")
                channel.send({"host": self._settings.name})
                self._events.subscribe(channel, channel.send, partial(self._drop, channel))
            case "hint":
                self._check_may_command(channel)
                reason = HintReason[str(message["reason"]).upper()]
                self._as_server().hint(str(message["connection"]), reason, message.get("to"))
                channel.send({"ok": True})
                self._reschedule()
            case "drain":
                self._check_may_command(channel)
                if message.get("server") not in (None, self._settings.name):
                    raise MtcpError(f"this host is {self._settings.name}: run `mtcp drain` on the server to be drained")
                answer = partial(_answer, channel)
                self._as_server().start_drain(message.get("to"), float(message["seconds"]), answer)
                self._on_timer()
            case other:
                raise MtcpError(f"the agent does not know the request {other!r}")

    def _as_server(self) -> ServerSide:
        if self._server is None:
            raise MtcpError(f"the agent of {self._settings.name} is no server of a pool; it needs --pool and --name")
        return self._server

    def _migrate(self, channel: Channel, message: Message) -> None:
        self._check_may_command(channel)
        self._client.migrate(message.get("connection"), message["to"], lambda outcome: _answer(channel, outcome))
        self._reschedule()

    def _policy(self, channel: Channel, text: object) -> None:
        if text is not None:
            self._check_may_command(channel, "change the policy")
            policy = make(str(text))
            self._client.obey(policy)
            self._events.emit("policy", policy=policy)
            self._reschedule()
        channel.send({"policy": str(self._client.policy)})

    @staticmethod
    def _check_may_command(channel: Channel, what: str = "move connections") -> None:
        if not channel.may_command():
            raise MtcpError(f"only root and the agent's own user may {what}")

    def _drop(self, channel: Channel) -> None:
        log.warning("pid %d watches, but does not read; dropped", channel.pid)
        channel.close()
        self.on_channel_closed(channel)

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = {"name": self._settings.name, "interfaces": list(self._settings.interfaces)}
        status["client_connections"] = len(self._client.connections())
        status["control_segments"] = self._segments.counters()
        if self._server is not None:
            status |= self._server.status()
        return status


def _hurry() -> None:
    """Let this process run soon when it has something to do: a move is a chain of four such moments, and may be wanted
    just because the server is overloaded. Not at real-time priority: there, one busy agent keeps all others waiting."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except OSError as error:
        log.info("no higher priority here (%s): moves take longer on busy processors", error.strerror)


def _size(message: Message, name: str, default: int, least: int) -> int:
    size = message.get(name, default)
    if not isinstance(size, int) or not least <= size <= SIZE_MAX:
        raise MtcpError(f"{name} is {least} to {SIZE_MAX} bytes, not {size!r}")
    return size


def _answer(channel: Channel, outcome: dict[str, Any]) -> None:
    channel.send(outcome)


def run(settings: Settings) -> None:
    """Run the agent; MtcpError or OSError when it cannot start. Undoes what it did, but for what is pinned."""

    # Whoever is to leave an overloaded host is not to wait behind those who overload it.
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)

    async def main() -> None:
        with ExitStack() as stack:
            await Agent(settings, stack).run()

    asyncio.run(main())
