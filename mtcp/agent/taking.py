"""An attempt to take a connection from another server: how the agent restores it and hands it to an application."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING

from mtcp import seq
from mtcp.address import Endpoint
from mtcp.agent.holding import TOMBSTONE, Origins, ServerConnection
from mtcp.agent.local import Channel
from mtcp.capsule import LOG_SIZE, STATE_MAX, Capsule, Snapshot
from mtcp.errors import Reason
from mtcp.linux import tcp_repair
from mtcp.linux.segments import Segment, TcpFlags
from mtcp.roles.new_server import NewServerRole
from mtcp.snapshot import StateReply
from mtcp.states import NewServer
from mtcp.wire.frames import Done, Frame
from mtcp.wire.options import Accept, AnyOption, Migrate

if TYPE_CHECKING:
    from mtcp.agent.server import ServerSide

log = logging.getLogger(__name__)


class Taking:
    """One attempt to take a connection; the port of its new-server role."""

    def __init__(self, side: ServerSide, syn: Segment, migrate: Migrate) -> None:
        self.four_tuple = syn.four_tuple
        self.role = NewServerRole(syn.four_tuple, migrate, syn.window, self)
        self.ends_at = time.monotonic() + TOMBSTONE
        self._side = side
        self._syn_seq = syn.seq
        self._migrate = migrate
        self._sock: socket.socket | None = None
        self._capsule: Capsule | None = None
        self._connection: ServerConnection | None = None
        self._offered = 0
        self._fin: Segment | None = None
        """The client's, if it was the old server that had it."""

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
            self._connection.announce(time.monotonic())
        return self._side.send_frame(server, frame)

    def restore(self, reply: StateReply, client_rcv_nxt: int, client_window: int) -> None:
        self._side.event("reply_received", self, self.role.attempt)
        self._side.superseded(self)
        self._side.datapath.returned(self.four_tuple)
        try:
            self._sock = tcp_repair.restore(reply, self.four_tuple, client_rcv_nxt, client_window)
        except OSError as error:
            log.warning("%s cannot be restored: %s", self.four_tuple, error)
            raise
        if reply.fin_received:
            seq_, ack, window = tcp_repair.clients_fin(reply, client_rcv_nxt, client_window)
            flags = TcpFlags.FIN | TcpFlags.ACK
            self._fin = Segment(self.four_tuple.reversed, seq_, ack, flags, window)
        self._side.event("restored", self, self.role.attempt)

    def send(self, option: AnyOption) -> None:
        reply = self.role.reply
        if not isinstance(option, Accept) or reply is None:
            self._side.send(Segment(self.four_tuple, 0, seq.add(self._syn_seq, 1), TcpFlags.ACK, 0, option))
            return
        seq_, ack, window = tcp_repair.advertised(reply)
        accept = Segment(self.four_tuple, seq.add(seq_, -1), ack, TcpFlags.SYN_ACK, window, option)
        self._side.send(accept)
        self._side.event("accept_sent", self, self.role.attempt)
        if self._connection is None:
            # Twice: with an ACCEPT that is lost the client refuses all that follows it, and this kernel, which has no
            # round-trip time yet, waits for a second or three before it sends that again.
            self._side.send(accept)
            self._hand_over(reply)
        # The kernel's own first segment is a probe that the client's kernel ignores, and its window with it: this one
        # counts. Were the window not repeated, a client that was stopped by a full buffer would stay so: the kernel
        # thinks it open, and says no more until it has doubled.
        self._side.send(Segment(self.four_tuple, seq_, ack, TcpFlags.ACK, max(window, self._offered)))

    def _hand_over(self, reply: StateReply) -> None:
        assert self._sock is not None
        tcp_repair.go(self._sock, reply.write_buffer)
        if reply.fin_sent:
            self._sock.shutdown(socket.SHUT_WR)
        self._offered = tcp_repair.offered_window(self._sock, reply.tcp_snapshot.rcv_wscale)
        # The application first: the client waits for its bytes, and for nothing that follows.
        channel = self._side.application_for(self.four_tuple.local.port)
        self._capsule = _capsule_of(reply, channel)
        message = {"op": "import", "local": self.four_tuple.local, "remote": self.four_tuple.remote}
        watched, held = os.pipe()
        if channel is None or not channel.send(message, [self._sock.fileno(), self._capsule.fd, held]):
            log.warning("%s has moved here, and its application has gone", self.four_tuple)
        os.close(held)
        moves = reply.tcp_snapshot.t_state_transitions
        self._connection = ServerConnection(
            self._side,
            self._sock,
            self._capsule,
            watched,
            channel,
            _origins_of(reply),
            reply.key,
            reply.attempt,
            moves,
            reply.fin_received,
        )
        self._side.add(self._connection)
        if self._fin is not None:
            self._connection.end_for_client(self._fin)
        self._side.event("delivered", self, reply.attempt)

    def discard(self) -> None:
        if self._connection is not None:
            self._connection.withdraw()


def _capsule_of(reply: StateReply, channel: Channel | None) -> Capsule:
    """A capsule whose streams start at the snapshot: offset 0 is rcv_seq_snapshot and snd_seq_snapshot."""
    log_size, state_max = (LOG_SIZE, STATE_MAX) if channel is None else (channel.log_size, channel.state_max)
    capsule = Capsule.create(max(log_size, len(reply.read_buffer)), max(state_max, len(reply.application_state)))
    capsule.write_offset = capsule.swallow = reply.snd_bytes_discard
    capsule.ended = reply.ended
    capsule.put_snapshot(Snapshot(reply.application_state, 0, 0, reply.ended))
    return capsule


def _origins_of(reply: StateReply) -> Origins:
    start_offset = reply.snd_bytes_discard - len(reply.write_buffer)
    return Origins(reply.rcv_seq_snapshot, reply.snd_seq_snapshot, reply.snd_max_seen, start_offset)
