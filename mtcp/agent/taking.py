"""An attempt to take a connection from another server: how the agent restores it and hands it to an application."""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from mtcp import seq
from mtcp.address import Endpoint
from mtcp.agent.holding import TOMBSTONE, ServerConnection
from mtcp.agent.local import Channel
from mtcp.capsule import (
    CLIENT_ENDED,
    TO_END,
    Capsule,
    Fence,
    Handover,
    Origins,
    Record,
    Snapshot,
)
from mtcp.errors import Reason
from mtcp.linux import tcp_repair
from mtcp.linux.segments import Segment, TcpFlags
from mtcp.roles.new_server import NewServerRole
from mtcp.snapshot import StateReply, advertised, clients_fin
from mtcp.states import NewServer
from mtcp.wire.frames import Done, Frame
from mtcp.wire.options import Accept, AnyOption, Migrate

if TYPE_CHECKING:
    from mtcp.agent.server import ServerSide

log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    """A restored socket that the application has, and that must not send before ACCEPT."""

    sock: socket.socket
    capsule: Capsule
    watched: int
    pid: int
    write_buffer: bytes


class Taking:
    """One attempt to take a connection; the port of its new-server role."""

    def __init__(self, side: ServerSide, syn: Segment, migrate: Migrate) -> None:
        self.four_tuple = syn.four_tuple
        self.role = NewServerRole(syn.four_tuple, migrate, syn.window, self)
        self.ends_at = time.monotonic() + TOMBSTONE
        self._side = side
        self._syn_seq = syn.seq
        self._migrate = migrate
        self._waiting: _Waiting | None = None
        self._connection: ServerConnection | None = None
        self._at = 0, 0, 0
        """(seq, ack, raw window) at which the restored socket starts."""
        self._fin: Segment | None = None
        """The client's, if it was the old server that had it."""

    @classmethod
    def recovered(cls, side: ServerSide, connection: ServerConnection, sock: socket.socket, capsule: Capsule) -> Taking:
        """Go on for an agent that ended before it knew that the client has committed; CapsuleError as of Capsule.

        The application has socket and capsule already.
        """
        record, handover, four_tuple = capsule.record, capsule.handover, connection.four_tuple
        assert record is not None
        migrate = Migrate(handover.server, handover.rcv_nxt, handover.attempt, handover.tag)
        taking = cls(side, Segment(four_tuple, 0, 0, TcpFlags.SYN, 0, migrate), migrate)
        if not capsule.is_open:
            _begin(sock, capsule, capsule.parked()[tcp_repair.counters(sock).written :])
        taking._connection = connection
        expected, una, window = tcp_repair.clients_next(sock, record.origins)
        taking._at = record.origins.snd_start, expected, tcp_repair.offered_window(sock)
        if capsule.ends & CLIENT_ENDED:
            flags = TcpFlags.FIN | TcpFlags.ACK
            taking._fin = Segment(four_tuple.reversed, expected, una, flags, window)
        taking.role.recover(record.key, time.monotonic())
        return taking

    def is_of(self, syn: Segment, migrate: Migrate) -> bool:
        """Whether this is the attempt of `migrate`, in `syn`."""
        return (self.four_tuple, self._migrate) == (syn.four_tuple, migrate)

    def poll(self, now: float) -> None:
        """Has the client's kernel been heard, although its ACK3 has not?"""
        connection = self._connection
        if connection is None:
            return
        if self.role.state is NewServer.RESTORED and connection.heard_from_client():
            self.role.on_traffic(now)
        if self._fin is not None:
            connection.end_for_client(self._fin)

    def unwilling(self) -> Reason | None:
        if self._side.drain is not None:
            return Reason.DRAINING
        return Reason.NO_APPLICATION if self._side.application_for(self.four_tuple.local.port) is None else None

    def send_frame(self, server: Endpoint, frame: Frame) -> bool:
        self._side.event(f"{frame.type.name.lower()}_sent", self, self.role.attempt)
        if isinstance(frame, Done) and self._connection is not None:
            self._connection.committed()
            self._connection.announce(time.monotonic())
        return self._side.send_frame(server, frame)

    def restore(self, reply: StateReply, client_rcv_nxt: int, client_window: int) -> None:
        self._side.event("reply_received", self, self.role.attempt)
        self._side.superseded(self)
        try:
            sock = tcp_repair.restore(reply, self.four_tuple, client_rcv_nxt, client_window)
        except OSError as error:
            log.warning("%s cannot be restored: %s", self.four_tuple, error)
            raise
        # Not before there is a socket for them: late segments would be answered with RST.
        self._side.datapath.returned(self.four_tuple)
        self._at = advertised(reply)
        if reply.fin_received:
            seq_, ack, window = clients_fin(reply, client_rcv_nxt, client_window)
            flags = TcpFlags.FIN | TcpFlags.ACK
            self._fin = Segment(self.four_tuple.reversed, seq_, ack, flags, window)
        self._side.event("restored", self, self.role.attempt)
        handover = Handover(self.role.old.local, reply.attempt, client_rcv_nxt, self.role.tag)
        try:
            self._deliver(sock, reply, handover)
        except OSError as error:
            log.warning("%s cannot be delivered: %s", self.four_tuple, error.strerror)
            sock.close()
            raise

    def _deliver(self, sock: socket.socket, reply: StateReply, handover: Handover) -> None:
        """Give socket and capsule to an application; OSError when there is none.

        Before the client hears of it: from here on they outlive this agent. The fence keeps the application from using
        them until ACCEPT has gone.
        """
        channel = self._side.application_for(self.four_tuple.local.port)
        if channel is None:
            raise OSError(errno.ESRCH, "its application has gone")
        capsule = _capsule_of(reply, handover, channel)
        message = {"op": "import", "local": self.four_tuple.local, "remote": self.four_tuple.remote}
        watched, held = os.pipe()
        try:
            if not channel.send(message, [sock.fileno(), capsule.fd, held]):
                os.close(watched)
                capsule.close()
                raise OSError(errno.EPIPE, "its application does not take it")
        finally:
            os.close(held)
        self._waiting = _Waiting(sock, capsule, watched, channel.pid, reply.write_buffer)
        self._side.event("delivered", self, self.role.attempt)

    def send(self, option: AnyOption) -> None:
        if not isinstance(option, Accept):
            self._side.send(Segment(self.four_tuple, 0, seq.add(self._syn_seq, 1), TcpFlags.ACK, 0, option))
            return
        seq_, ack, window = self._at
        accept = Segment(self.four_tuple, seq.add(seq_, -1), ack, TcpFlags.SYN_ACK, window, option)
        self._side.send(accept)
        self._side.event("accept_sent", self, self.role.attempt)
        if self._waiting is not None:
            # Twice: with an ACCEPT that is lost the client refuses all that follows it, and this kernel, which has no
            # round-trip time yet, waits for a second or three before it sends that again.
            self._side.send(accept)
            self._go(self._waiting)
        # The kernel's own first segment is a probe that the client's kernel ignores, and its window with it: this one
        # counts. Were the window not repeated, a client that was stopped by a full buffer would stay so: the kernel
        # thinks it open, and says no more until it has doubled.
        self._side.send(Segment(self.four_tuple, *self._at[:2], TcpFlags.ACK, self._at[2]))

    def _go(self, waiting: _Waiting) -> None:
        sock, capsule, watched, pid, write_buffer = waiting
        self._waiting = None
        _begin(sock, capsule, write_buffer)
        seq_, ack, window = self._at
        self._at = seq_, ack, max(window, tcp_repair.offered_window(sock))
        self._connection = ServerConnection(self._side, sock, capsule, watched, pid)
        self._side.add(self._connection)
        if self._fin is not None:
            self._connection.end_for_client(self._fin)

    def discard(self) -> None:
        if self._connection is not None:
            self._connection.withdraw()


def _begin(sock: socket.socket, capsule: Capsule, write_buffer: bytes) -> None:
    """Let the restored socket send, and the application use it."""
    tcp_repair.go(sock, write_buffer)
    if capsule.ends & TO_END:
        sock.shutdown(socket.SHUT_WR)
    capsule.fence = Fence.OPEN


def _capsule_of(reply: StateReply, handover: Handover, channel: Channel) -> Capsule:
    """A fenced capsule whose streams start at the snapshot: offset 0 is rcv_seq_snapshot and snd_seq_snapshot.

    It has all that another agent of this host needs to go on from here.
    """
    log_size = max(channel.log_size, len(reply.read_buffer), len(reply.write_buffer))
    capsule = Capsule.create(log_size, max(channel.state_max, len(reply.application_state)))
    capsule.fence = Fence.FENCED
    capsule.write_offset = capsule.swallow = reply.snd_bytes_discard
    capsule.ended = reply.ended
    capsule.put_snapshot(Snapshot(reply.application_state, 0, 0, reply.ended))
    capsule.park(reply.write_buffer)
    capsule.ends = CLIENT_ENDED * reply.fin_received | TO_END * reply.fin_sent
    capsule.attempt, capsule.taken, capsule.handover = reply.attempt, 1, handover
    start_offset = reply.snd_bytes_discard - len(reply.write_buffer)
    origins = Origins(reply.rcv_seq_snapshot, reply.snd_seq_snapshot, reply.snd_max_seen, start_offset)
    capsule.record = Record(reply.key, origins, reply.tcp_snapshot.t_state_transitions)
    return capsule
