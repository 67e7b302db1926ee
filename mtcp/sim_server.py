"""The servers of `mtcp.sim`: a model of TCP in a kernel, an echoing application, and the server roles' ports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtcp import seq
from mtcp.address import Endpoint, FourTuple
from mtcp.capsule import Capsule, CapsuleError, Fence, Snapshot
from mtcp.errors import Reason
from mtcp.roles.new_server import NewServerRole
from mtcp.roles.old_server import OldServerRole
from mtcp.snapshot import ApplicationSnapshot, KernelQueues, Refused, SoSnapshot, StateReply, TcpSnapshot, compose
from mtcp.states import NewServer, OldServer
from mtcp.wire import frames, options
from mtcp.wire.frames import Done, Frame, FrameReader, Release, StateReject, StateReplyFrame, StateRequest
from mtcp.wire.options import Abort, Accept, Ack3, AnyOption, Migrate

if TYPE_CHECKING:
    from mtcp.sim import Network, SimClient

QUEUE, LOG_SIZE = 64, 100
_TCP = TcpSnapshot(1, 1, 0, 1460, 0, 0, 0, 65535, 65535, 65535, 0)
_SO = SoSnapshot(0, 0, -1)


@dataclass(frozen=True)
class Data:
    """A segment of the connection."""

    seq: int
    ack: int
    payload: bytes


@dataclass
class Kernel:
    """One end's queues."""

    snd_una: int
    snd_nxt: int
    sndq: bytes
    rcv_nxt: int
    rcvq: bytes
    frozen: bool = False
    heard: bool = False

    @property
    def write_seq(self) -> int:
        return seq.add(self.snd_una, len(self.sndq))

    def segment(self, limit: int) -> Data:
        """What is not acknowledged, from its start on."""
        payload = self.sndq[:limit]
        self.snd_nxt = seq.latest(self.snd_nxt, seq.add(self.snd_una, len(payload)))
        return Data(self.snd_una, self.rcv_nxt, payload)

    def take(self, data: Data) -> None:
        """As RFC 9293: what acknowledges bytes that were never sent is dropped."""
        acked = seq.diff(data.ack, self.snd_una)
        if self.frozen or seq.after(data.ack, self.snd_nxt):
            return
        self.heard = True
        if acked > 0:
            self.snd_una, self.sndq = data.ack, self.sndq[acked:]
        have = seq.diff(self.rcv_nxt, data.seq)
        if 0 <= have < len(data.payload) and len(self.rcvq) < QUEUE:
            self.rcvq += data.payload[have:]
            self.rcv_nxt = seq.add(data.seq, len(data.payload))


class Holding:
    """A connection that a server has, and its application; the port of its old-server role."""

    def __init__(
        self, server: Server, kernel: Kernel, capsule: Capsule, key: bytes, attempt: int, origins: tuple[int, int]
    ) -> None:
        self.server, self.kernel, self.capsule = server, kernel, capsule
        self.taken_by = attempt
        self.role = OldServerRole(FourTuple(server.end, server.client_end), key, attempt, self)
        self.pending = capsule.snapshot().state
        """The application's memory: echoes not yet written."""
        self._rcv_origin, self._snd_origin = origins

    @property
    def acts(self) -> bool:
        """Whether the application may."""
        return self.capsule.fence is Fence.OPEN

    def turn(self) -> None:
        """The application: read, echo, perhaps export."""
        r, kernel, capsule = self.server.net.random, self.kernel, self.capsule
        if not self.acts:
            return
        if len(self.pending) < QUEUE and kernel.rcvq:
            with capsule.log_space(1 + r.randrange(60)) as space:
                n = min(len(space) or 1, len(kernel.rcvq))
                data, kernel.rcvq = kernel.rcvq[:n], kernel.rcvq[n:]
                if space:
                    space[:n] = data
                    capsule.logged(n)
                else:
                    capsule.read_past_log(n)
            self.pending += bytes(byte ^ 0x5A for byte in data)
        n = r.randrange(60)
        if capsule.swallow:
            n = min(n, capsule.swallow, len(self.pending))
            capsule.swallow -= n
        else:
            n = min(n, max(0, QUEUE - len(kernel.sndq)), len(self.pending))
            kernel.sndq += self.pending[:n]
            capsule.write_offset += n
        self.pending = self.pending[n:]
        if r.random() < self.server.exports:
            capsule.export(self.pending)

    # -- OldServerPort

    def fence_and_dump(self, client_rcv_nxt: int, attempt: int) -> StateReply:
        kernel, capsule = self.kernel, self.capsule
        capsule.fence, kernel.frozen = Fence.FENCED, True
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
        return compose(client_rcv_nxt, application, queues, log, _TCP, _SO, self.role.key, attempt)

    def resume(self) -> None:
        self.capsule.fence, self.kernel.frozen = Fence.OPEN, False

    def close_silently(self) -> None:
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
        self._taken: Holding | None = None
        self._handed_over = False

    def poll(self, now: float) -> None:
        if self.role.state is NewServer.RESTORED and self._taken is not None and self._taken.kernel.heard:
            self.role.on_traffic(now)
        self.role.on_timer(now)

    # -- NewServerPort

    def unwilling(self) -> Reason | None:
        return None

    def send_frame(self, server: Endpoint, frame: Frame) -> bool:
        self.server.send_frame(server, frame)
        return True

    def restore(self, reply: StateReply, client_rcv_nxt: int, client_window: int) -> None:
        now = self.server.net.now
        for other in self.server.takings.values():
            if other.role.attempt < self.role.attempt:
                other.role.superseded(now)
        held = self.server.holding
        if held is not None and held.role.state is OldServer.FENCED:
            held.role.came_back(now)
        if held is not None and held.capsule.fence is not Fence.MIGRATED:
            raise OSError("the 4-tuple is in use")
        capsule = self.server.capsule(max(LOG_SIZE, len(reply.read_buffer)))
        capsule.write_offset = capsule.swallow = reply.snd_bytes_discard
        capsule.put_snapshot(Snapshot(reply.application_state, 0, 0))
        first = reply.snd_max_seen
        kernel = Kernel(first, first, reply.write_buffer, reply.last_ack_sent, reply.read_buffer)
        origins = reply.rcv_seq_snapshot, reply.snd_seq_snapshot
        self._taken = Holding(self.server, kernel, capsule, reply.key, reply.attempt, origins)

    def send(self, option: AnyOption) -> None:
        if self._taken is not None and isinstance(option, Accept) and not self._handed_over:
            self.server.holding, self._handed_over = self._taken, True
        self.server.send(option)

    def discard(self) -> None:
        if self._taken is not None:
            self._taken.close_silently()
            if self.server.holding is self._taken:
                self.server.holding = None


class Server:
    """One server's agent and what it has."""

    def __init__(self, end: Endpoint, client_end: Endpoint, net: Network) -> None:
        self.end, self.client_end, self.net = end, client_end, net
        self.holding: Holding | None = None
        self.takings: dict[bytes, Taking] = {}
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

    def send(self, option: AnyOption) -> None:
        wire = options.encode(option)
        arrive = lambda: self.client.on_control(self.end, options.decode(wire))  # noqa: E731
        self.net.send(f"{self.end.ip} -> C {option}", arrive)

    def send_frame(self, server: Endpoint, frame: Frame) -> None:
        wire, other = frames.encode(frame), self.others[server]
        attempt = frame.reply.attempt if isinstance(frame, StateReplyFrame) else frame.attempt
        self.net.send(
            f"{self.end.ip} -> {server.ip} {frame.type.name} {attempt}", lambda: other.on_wire(wire, self.end)
        )

    def on_wire(self, wire: bytes, sender: Endpoint) -> None:
        now = self.net.now
        for frame in FrameReader().feed(wire):
            match frame:
                case StateRequest():
                    held = self.holding
                    if held is None:
                        reject = StateReject(frame.old, frame.attempt, frame.mac, Reason.UNKNOWN_CONNECTION)
                        self.send_frame(sender, reject)
                        return
                    held.role.on_request(frame, now)
                    for taking in self.takings.values():
                        if taking.role.attempt < frame.attempt == held.role.attempt:
                            taking.role.on_traffic(now)
                case Done() | Release():
                    if self.holding is not None:
                        self.holding.role.on_outcome(frame, now)
                case _:
                    if (known := self.takings.get(frame.tag)) is not None:
                        known.role.on_frame(frame, now)

    def on_control(self, option: AnyOption) -> None:
        now = self.net.now
        match option:
            case Migrate():
                self.takings.setdefault(option.mac, Taking(self, option)).role.on_migrate_syn(now)
            case Ack3() | Abort() if (taking := self._attempt(option.attempt)) is not None:
                taking.role.on_ack3(option, now) if isinstance(option, Ack3) else taking.role.on_abort(option, now)
            case _:
                if self.holding is not None:
                    self.holding.role.on_option(option, now)

    def _attempt(self, attempt: int) -> Taking | None:
        return next((t for t in self.takings.values() if t.role.attempt == attempt and t.role.reply is not None), None)

    def on_data(self, data: Data) -> None:
        if self.holding is not None:
            self.holding.kernel.take(data)

    def tick(self, now: float) -> None:
        for taking in self.takings.values():
            taking.poll(now)
        held = self.holding
        if held is not None:
            held.role.on_timer(now)
        if held is not None and not held.kernel.frozen:
            held.turn()
            data = held.kernel.segment(1 + self.net.random.randrange(60))
            self.net.send("data", lambda: self.client.on_data(self.end, data), quiet=True)
