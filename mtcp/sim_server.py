"""The servers of `mtcp.sim`: an agent with the server roles, and what outlives it, kernel, capsule and application."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtcp import seq
from mtcp.address import Endpoint, FourTuple
from mtcp.capsule import Capsule, CapsuleError, Fence, Snapshot
from mtcp.errors import Reason
from mtcp.roles.new_server import NewServerRole
from mtcp.roles.old_server import OldServerRole
from mtcp.sim_kernel import LOG_SIZE, Application, Data, Kernel
from mtcp.sim_network import Host, Network
from mtcp.snapshot import ApplicationSnapshot, KernelQueues, Refused, SoSnapshot, StateReply, TcpSnapshot, compose
from mtcp.states import NewServer, OldServer
from mtcp.wire import frames, options
from mtcp.wire.frames import Done, Frame, FrameReader, Release, StateReject, StateRequest
from mtcp.wire.options import Accept, Ack3, AnyOption, Migrate, Refusal

if TYPE_CHECKING:
    from mtcp.sim_client import SimClient

_TCP = TcpSnapshot(1, 1, 0, 1460, 0, 0, 0, 65535, 65535, 65535, 0)
_SO = SoSnapshot(0, 0, -1)


class Holding:
    """A connection that a server has; the port of its old-server role, which dies with the agent."""

    def __init__(
        self,
        server: Server,
        kernel: Kernel,
        capsule: Capsule,
        key: bytes,
        attempt: int,
        origins: tuple[int, int],
        taken: Migrate | None = None,
    ) -> None:
        self.server, self.kernel, self.capsule, self.key = server, kernel, capsule, key
        self.application: Application | None = Application(kernel, capsule, server.net.random)
        self.taken_by = attempt
        self.wanted = True
        """Whether the client was waiting for it when it was restored: a ghost that is not can do nothing."""
        self._rcv_origin, self._snd_origin = origins
        # What the capsule keeps for an agent that begins anew.
        self.taken = taken
        """By what it was taken, until the client is known to have committed."""
        self._attempt = attempt
        self._given: tuple[Endpoint, bytes] | None = None
        self.role = self._fresh_role()

    def _fresh_role(self) -> OldServerRole:
        return OldServerRole(FourTuple(self.server.end, self.server.client_end), self.key, self._attempt, self)

    def attach_again(self, now: float) -> None:
        """To an agent that has begun anew."""
        self.role = self._fresh_role()
        if self.taken is not None:
            taking = self.server.takings[self.taken.mac] = Taking(self.server, self.taken)
            taking.recover(self, now)
        elif not self.acts:
            assert self._given is not None
            self.role.recover(*self._given, now)

    @property
    def acts(self) -> bool:
        """Whether the application may."""
        return self.capsule.fence is Fence.OPEN

    # -- OldServerPort

    def fence_and_dump(self, client_rcv_nxt: int, attempt: int) -> StateReply:
        self.server.point()
        assert self.role.new_server is not None
        self.taken = None
        self._attempt, self._given = attempt, (self.role.new_server, self.role.tag)
        kernel, capsule = self.kernel, self.capsule
        capsule.fence = Fence.FENCED
        kernel.frozen = True
        self.server.point()
        if capsule.overflowed:
            raise Refused(Reason.LOG_OVERFLOW)
        snapshot = capsule.snapshot()
        application = ApplicationSnapshot(
            snapshot.state,
            seq.add(self._rcv_origin, snapshot.rcv_offset),
            seq.add(self._snd_origin, snapshot.snd_offset),
        )
        queues = KernelQueues(
            kernel.snd_una,
            kernel.snd_nxt,
            kernel.write_seq,
            kernel.sndq,
            kernel.rcv_nxt,
            seq.add(kernel.rcv_nxt, -len(kernel.rcvq)),
            kernel.rcvq,
            capsule.write_offset,
            snapshot.snd_offset,
        )
        try:
            log = capsule.read_log(snapshot.rcv_offset, capsule.read_offset)
        except CapsuleError:
            raise Refused(Reason.INVALID_STATE) from None
        return compose(client_rcv_nxt, application, queues, log, _TCP, _SO, self.key, attempt)

    def resume(self) -> None:
        self.server.point()
        self._attempt = self.role.attempt
        self.kernel.frozen = False
        self.server.point()
        self.capsule.fence = Fence.OPEN

    def close_silently(self) -> None:
        self.server.point()
        self.capsule.fence, self.kernel.frozen = Fence.MIGRATED, True

    def send_frame(self, server: Endpoint, frame: Frame) -> None:
        self.server.send_frame(server, frame)

    def send(self, option: AnyOption) -> None:
        self.server.send(option)


class Taking:
    """An attempt to take the connection; the port of its new-server role."""

    def __init__(self, server: Server, migrate: Migrate) -> None:
        self.server = server
        self.role = NewServerRole(FourTuple(server.end, server.client_end), migrate, 0, self)
        self._migrate = migrate
        self._taken: Holding | None = None

    def recover(self, taken: Holding, now: float) -> None:
        """Go on for an agent that has ended."""
        self._taken = taken
        self._open(taken)
        self.role.recover(taken.key, now)

    def on_timer(self, now: float) -> None:
        if self.role.state is NewServer.RESTORED and self._taken is not None and self._taken.kernel.heard:
            self.role.on_traffic(now)
        before = self.role.state
        self.role.on_timer(now)
        self.server.lost |= (before, self.role.state) == (NewServer.RESTORED, NewServer.FAILED)

    # -- NewServerPort

    def unwilling(self) -> Reason | None:
        return None

    def send_frame(self, server: Endpoint, frame: Frame) -> bool:
        if isinstance(frame, Done) and self._taken is not None:
            self._taken.taken = None
        self.server.send_frame(server, frame)
        return True

    def restore(self, reply: StateReply, client_rcv_nxt: int, client_window: int) -> None:
        server, now = self.server, self.server.net.now
        server.point()
        for other in server.takings.values():
            if other.role.attempt < self.role.attempt:
                other.role.superseded(now)
        if server.known is not None and server.known.role.state is OldServer.FENCED:
            server.known.role.came_back(self.role.attempt, now)
        if server.holding is not None and server.holding.capsule.fence is not Fence.MIGRATED:
            raise OSError("the 4-tuple is in use")
        capsule = server.capsule(max(LOG_SIZE, len(reply.read_buffer)))
        capsule.write_offset = capsule.swallow = reply.snd_bytes_discard
        capsule.put_snapshot(Snapshot(reply.application_state, 0, 0))
        first = reply.snd_max_seen
        kernel = Kernel(first, first, reply.write_buffer, reply.last_ack_sent, reply.read_buffer)
        origins = reply.rcv_seq_snapshot, reply.snd_seq_snapshot
        kernel.frozen, capsule.fence = True, Fence.FENCED
        server.point()
        # The application has it from here on: it survives this agent.
        server.holding = self._taken = Holding(
            server, kernel, capsule, reply.key, reply.attempt, origins, self._migrate
        )

    def send(self, option: AnyOption) -> None:
        self.server.send(option)
        if self._taken is not None and isinstance(option, Accept) and self.server.known is not self._taken:
            self._open(self._taken)

    def _open(self, taken: Holding) -> None:
        """The application may begin."""
        self.server.point()
        taken.wanted = self.server.client.waits_for(self.role.attempt)
        taken.kernel.frozen, taken.capsule.fence = False, Fence.OPEN
        self.server.known = taken

    def discard(self) -> None:
        if self._taken is not None:
            self._taken.close_silently()
            if self.server.holding is self._taken:
                self.server.holding = self.server.known = None


class Server(Host):
    """One server."""

    def __init__(self, end: Endpoint, client_end: Endpoint, net: Network) -> None:
        super().__init__("S" + end.ip.rpartition(".")[2], net)
        self.end, self.client_end = end, client_end
        self.holding: Holding | None = None
        self.known: Holding | None = None
        """The same, as far as the agent knows: applications have to find one that begins anew."""
        self.takings: dict[bytes, Taking] = {}
        self.alive = True
        self.lost = False
        """Whether it died with a connection, or let one go after a lease in which nobody could be asked."""
        self.client: SimClient
        self.others: dict[Endpoint, Server]
        self.exports = net.random.choice([0.05, 0.3, 1.0])
        """How likely the application exports in a turn; too seldom for its log, at times."""
        self._capsules: list[Capsule] = []

    def capsule(self, log_size: int = LOG_SIZE) -> Capsule:
        self._capsules.append(Capsule.create(log_size, 128))
        return self._capsules[-1]

    def close(self) -> None:
        for capsule in self._capsules:
            capsule.close()

    # -- the agent

    def send(self, option: AnyOption) -> None:
        self.point()
        wire, client = options.encode(option), self.client
        self.net.send(self.name, client.name, option, lambda: client.on_control(self.end, options.decode(wire)))

    def send_frame(self, server: Endpoint, frame: Frame) -> None:
        self.point()
        wire, other = frames.encode(frame), self.others[server]
        self.net.send(self.name, other.name, frame, lambda: other.run(lambda: other.on_wire(wire)))

    def on_wire(self, wire: bytes) -> None:
        now = self.net.now
        for frame in FrameReader().feed(wire):
            match frame:
                case StateRequest():
                    self._on_request(frame, now)
                case Done() | Release():
                    if self.known is not None:
                        self.known.role.on_outcome(frame, now)
                case _:
                    if (taking := self.takings.get(frame.tag)) is not None:
                        taking.role.on_frame(frame, now)

    def _on_request(self, frame: StateRequest, now: float) -> None:
        if self.known is None:
            reject = StateReject(frame.old, frame.attempt, frame.mac, Reason.UNKNOWN_CONNECTION)
            self.send_frame(frame.new.local, reject)
            return
        self.known.role.on_request(frame, now)
        for taking in self.takings.values():
            if taking.role.attempt < frame.attempt == self.known.role.attempt:
                taking.role.on_traffic(now)

    def on_control(self, option: AnyOption) -> None:
        now = self.net.now
        match option:
            case Migrate():
                self.takings.setdefault(option.mac, Taking(self, option)).role.on_migrate_syn(now)
            case Ack3() | Refusal() if (taking := self._attempt(option.attempt)) is not None:
                taking.role.on_ack3(option, now) if isinstance(option, Ack3) else taking.role.on_refusal(option, now)
            case _:
                if self.known is not None:
                    self.known.role.on_option(option, now)

    def _attempt(self, attempt: int) -> Taking | None:
        return next((t for t in self.takings.values() if t.role.attempt == attempt and t.role.key is not None), None)

    def _on_timer(self) -> None:
        for taking in self.takings.values():
            taking.on_timer(self.net.now)
        if self.known is not None:
            before = self.known.role.state
            self.known.role.on_timer(self.net.now)
            self.lost |= (before, self.known.role.state) == (OldServer.FENCED, OldServer.MIGRATED)

    def forget(self) -> None:
        self.known, self.takings = None, {}

    def recover(self) -> None:
        def attach() -> None:
            held = self.holding
            if held is not None and self.known is None and held.capsule.fence is not Fence.MIGRATED:
                self.known = held
                held.attach_again(self.net.now)

        self.net.after(self.net.random.random() * 0.5, lambda: self.run(attach))

    @property
    def has_nothing(self) -> bool:
        """Whether its kernel has no such socket."""
        return self.holding is None or self.holding.capsule.fence is Fence.MIGRATED

    @property
    def busy(self) -> bool:
        """Whether a role has something to do still."""
        roles = [taking.role for taking in self.takings.values()]
        return (
            not self.up
            or (self.known is None and not self.has_nothing)
            or any(role.deadline is not None for role in roles)
            or (self.known is not None and self.known.role.deadline is not None)
        )

    # -- the host

    def die(self, seconds: float) -> None:
        """All of it, for a while."""
        self.lost |= not self.has_nothing
        self.alive, self.holding = False, None
        self.crash(seconds)
        self.net.note(self.name, "the whole server dies")

        def boot() -> None:
            self.alive = True

        self.net.after(seconds, boot)

    def on_data(self, data: Data) -> None:
        if not self.alive:
            return
        if self.holding is None or self.has_nothing:
            self.client.on_reset(self.end)
        else:
            self.holding.kernel.take(data)

    def on_reset(self) -> None:
        """The client's kernel has no such socket."""
        held = self.holding
        if held is not None and not held.kernel.frozen:
            held.kernel.frozen = True
            if self.known is held:
                self.run(lambda: held.role.closed(self.net.now))
            held.capsule.fence = Fence.MIGRATED

    def tick(self) -> None:
        self.run(self._on_timer)
        held = self.holding
        if held is not None and not held.kernel.frozen:
            if held.application is not None and held.acts:
                held.application.turn(self.exports)
            data = held.kernel.segment(1 + self.net.random.randrange(60))
            self.net.send(self.name, self.client.name, None, lambda: self.client.on_data(self.end, data))


def owns(server: Server) -> bool:
    """Whether the connection is at rest there."""
    known = server.known
    return known is not None and known.acts and known.role.state is OldServer.ESTABLISHED
