"""A connection that this server has: how the agent fences, dumps, resumes and ends it."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mtcp import seq
from mtcp.address import Endpoint
from mtcp.capsule import CLIENT_ENDED, Capsule, CapsuleError, Fence, Handover, TooLarge
from mtcp.errors import Reason
from mtcp.lifeline import Watch
from mtcp.linux import tcp_repair
from mtcp.linux.segments import Segment, TcpFlags
from mtcp.roles.hints import HintSender
from mtcp.roles.old_server import OldServerRole
from mtcp.roles.server_list import Announcement
from mtcp.snapshot import FIN_RECEIVED, MOVABLE, ApplicationSnapshot, KernelQueues, Refused, StateReply, compose
from mtcp.states import OldServer
from mtcp.wire.frames import MAX_BODY, Frame
from mtcp.wire.options import AbortAck, AnyOption, HintReason

if TYPE_CHECKING:
    from mtcp.agent.server import ServerSide

log = logging.getLogger(__name__)
LARGEST_STATE = MAX_BODY - 4096
"""Bytes of state and buffers that fit into a frame beside its numbers."""
ORPHAN_LEASE = 60.0
"""Seconds for which the agent keeps a connection whose application died, so that it may still move away."""
AFTER_CLOSE = 10.0
"""Seconds for which a connection that the application has closed answers a client that was just about to move it."""
ENDS_AHEAD = range(8, 23)
"""Bytes, as powers of two: some are within the client's window, and ahead of what it has."""
TOMBSTONE = 60.0
"""Seconds for which a role that has ended answers repeated messages."""


class ServerConnection:
    """A connection that this server has; the port of its old-server role."""

    def __init__(self, side: ServerSide, sock: socket.socket, capsule: Capsule, lifeline: int, pid: int) -> None:
        """Owns `sock`, `capsule`, whose record has been written, and `lifeline`, which tells when `pid` has gone.

        CapsuleError when the record is not one.
        """
        record = capsule.record
        if record is None:
            raise CapsuleError("the agent has not recorded this connection")
        self.four_tuple = tcp_repair.four_tuple_of(sock)
        self.role = OldServerRole(self.four_tuple, record.key, capsule.attempt, self)
        self.pid = pid
        """The process that attached it last."""
        self.ends_at: float | None = None
        """When to forget it; None while it lives."""
        self.orphaned_until: float | None = None
        """When to close it, because its application died; None while that lives."""
        self.moves = record.moves
        self.announcement: Announcement | None = None
        self.hints = HintSender(record.key, capsule.attempt)
        self._side = side
        self._sock = sock
        self._capsule = capsule
        # Read once: the application may write there, too.
        self._origins = record.origins
        self._watches: list[Watch] = []
        self._orderly = True
        self._closed_by_application = False
        self._fenced_for = capsule.attempt
        self._fin_due = bool(capsule.ends & CLIENT_ENDED)
        """The client's FIN went to another server, and this kernel has still to be told of it."""
        self._heard = False
        self.watch(lifeline, pid)

    def has(self, capsule: Capsule) -> bool:
        """Whether this is the connection with that capsule, and the agent holds it."""
        return self._sock.fileno() >= 0 and self._capsule.id == capsule.id

    def watch(self, lifeline: int, pid: int) -> None:
        """Process `pid` has it as well, with a lifeline of its own, which this owns from now on."""
        self._watches.append(Watch(lifeline, self._on_process_gone))
        self.pid = pid
        self.orphaned_until = None

    def unwatch(self) -> None:
        """Take note of no process any more."""
        for watch in self._watches:
            watch.close()

    def announce(self, now: float) -> None:
        """Tell the client where else this connection may go."""
        local = self.four_tuple.local
        others = [place for server in self._side.others if (place := server.place_of(local)) is not None]
        self.announcement = Announcement(self.role.key, 1, others, now)

    @property
    def has_left(self) -> bool:
        """Whether another server has it now."""
        return self.role.state is OldServer.MIGRATED

    def hint(self, reason: HintReason, preferred: Endpoint | None, now: float) -> None:
        """Ask the client to take this connection to another server."""
        self.hints.send(reason, preferred, now)
        self._side.event("hint_sent", self, self.role.attempt)

    def heard_from_client(self) -> bool:
        """Whether the client's kernel has acknowledged anything since this server took the connection, until its close.

        Any other segment may be a late one, of the client's last stay here.
        """
        if self._sock.fileno() >= 0:
            self._heard = tcp_repair.has_been_acknowledged(self._sock)
        return self._heard

    def committed(self) -> None:
        """The client has: this server has the connection for good."""
        if self.ends_at is None:
            self._capsule.taken = 0

    def end_for_client(self, fin: Segment) -> None:
        """Give the kernel the FIN that another server had from the client."""
        # Nor to a connection that is over: the kernel would reset the client.
        self._fin_due = self._sock.fileno() >= 0 and tcp_repair.counters(self._sock).state in MOVABLE - FIN_RECEIVED
        if self._fin_due and self.role.state is OldServer.ESTABLISHED:
            self._side.send(fin)

    def deadlines(self) -> Iterator[float]:
        """When it wants to be woken."""
        repeated = self.announcement.deadline if self.announcement is not None else None
        for deadline in (self.role.deadline, repeated, self.hints.deadline):
            if deadline is not None:
                yield deadline

    def repeat_fin(self) -> None:
        """After a restart of the agent: give the kernel the client's FIN, if it still lacks that."""
        if self._fin_due:
            at = tcp_repair.clients_next(self._sock, self._origins)
            flags = TcpFlags.FIN | TcpFlags.ACK
            self.end_for_client(Segment(self.four_tuple.reversed, at[0], at[1], flags, at[2]))

    def on_timer(self, now: float) -> None:
        """Repeat what is due."""
        for segment in self.announcement.due(now) if self.announcement is not None else []:
            self.send(segment)
        if self.role.state is OldServer.ESTABLISHED and (hint := self.hints.due(now)) is not None:
            self.send(hint)
        self.role.on_timer(now)
        if self.orphaned_until is not None and now >= self.orphaned_until:
            self.orphaned_until = None
            self.application_closed(now)

    def _on_process_gone(self, orderly: bool) -> None:
        """No process has a lifeline any more; unless `orderly`, one died with it.

        When it was the last, and one died, the connection stays for a while and may move.
        """
        self._orderly &= orderly
        if self.ends_at is not None or self.has_application:
            return
        if self._orderly:
            self.application_closed(time.monotonic())
        else:
            self.orphaned_until = time.monotonic() + ORPHAN_LEASE

    @property
    def has_application(self) -> bool:
        return any(watch.is_open for watch in self._watches)

    def application_closed(self, now: float) -> None:
        """The application has closed it, or the lease of its death is over."""
        self._closed_by_application = True
        self.role.closed(now)
        if self.role.state is OldServer.CLOSED:
            self.release()
            self.ends_at = now + AFTER_CLOSE

    def release(self) -> None:
        """Close the agent's own descriptors."""
        self.heard_from_client()  # for the last time: its ACK3 may be lost
        self.unwatch()
        ahead = self._ends_ahead()
        tcp_repair.close(self._sock)
        self._capsule.close()
        for end in ahead:
            self._side.send(end)

    def _ends_ahead(self) -> list[Segment]:
        """What makes the client believe the kernel's reset, if that is to come and the connection was taken.

        The client may have more of the old server's than this one has sent, behind a gap that this one has filled, and
        nobody here knows how much: a reset from here would be one of the past, which is ignored. An end of the stream
        that lies ahead of what the client has is answered with what that is, at once, and to this answer, of a
        connection that is no more, the kernel's reset is right. A reset ahead would not do: the answer is limited to
        twice a second (RFC 5961 section 7), and by the client's mapping to what the server has been seen to send.
        """
        if not self.moves or self._sock.fileno() < 0 or not tcp_repair.is_to_be_reset(self._sock):
            return []
        at = seq.add(self._origins.snd_start, tcp_repair.counters(self._sock).sent)
        ack, flags = tcp_repair.clients_next(self._sock, self._origins)[0], TcpFlags.FIN | TcpFlags.ACK
        return [Segment(self.four_tuple, seq.add(at, 1 << i), ack, flags, 0) for i in ENDS_AHEAD]

    # -- after a restart of the agent

    def recover(self, now: float) -> None:
        """Go on where another agent of this host has ended; CapsuleError when the capsule does not say where."""
        capsule = self._capsule
        if capsule.fence is Fence.FENCED and tcp_repair.is_deaf(self._sock):
            handover = capsule.handover
            tcp_repair.stay_frozen(self._sock)
            self._fenced_for = self.role.attempt = handover.attempt
            self.role.recover(handover.server, handover.tag, now)
        else:
            # Deaf first and deaf last: nobody has been told anything, or the outcome was known.
            if tcp_repair.is_deaf(self._sock) or tcp_repair.is_frozen(self._sock):
                tcp_repair.thaw(self._sock)
            capsule.fence = Fence.OPEN

    # -- OldServerPort

    def fence_and_dump(self, client_rcv_nxt: int, attempt: int) -> StateReply:
        if self._capsule.is_open:
            # First what another agent will ask about: without the fence it means nothing.
            assert self.role.new_server is not None
            self._capsule.taken = 0
            self._capsule.handover = Handover(self.role.new_server, attempt, client_rcv_nxt, self.role.tag)
            self._capsule.fence = Fence.FENCED
            self._fenced_for = attempt
        self._side.event("fenced", self, attempt)
        try:
            reply = self._dump(client_rcv_nxt, attempt)
        except TooLarge as error:
            raise Refused(Reason.TOO_LARGE) from error
        except (CapsuleError, OSError) as error:
            log.warning("%s cannot be dumped: %s", self.four_tuple, error)
            raise Refused(Reason.INVALID_STATE) from error
        self._side.event("dumped", self, attempt, shipped=reply.size)
        return reply

    def _dump(self, client_rcv_nxt: int, attempt: int) -> StateReply:
        at, unread = tcp_repair.freeze(self._sock)
        transport = tcp_repair.read_transport(self._sock, self.moves + 1)
        if self._capsule.overflowed:
            raise Refused(Reason.LOG_OVERFLOW)
        origins = self._origins
        # The capsule's contents are the application's word: nothing is copied before its size is known to be bearable.
        snapshot = self._capsule.snapshot(LARGEST_STATE)
        if snapshot.held and self.has_application:
            raise Refused(Reason.HELD)
        if at.read - snapshot.rcv_offset > LARGEST_STATE:
            raise Refused(Reason.TOO_LARGE)
        application = ApplicationSnapshot(
            snapshot.state,
            seq.add(origins.rcv, snapshot.rcv_offset),
            seq.add(origins.snd, snapshot.snd_offset),
            snapshot.ended,
        )
        start_offset = origins.snd_start_offset
        written, sndq = at.written, b""
        if snapshot.snd_offset > start_offset + at.acked:
            # The snapshot may count what the application, in send() already, has written since the socket was frozen.
            written, sndq = tcp_repair.read_send_queue(self._sock)
        kernel = KernelQueues(
            snd_una=seq.add(origins.snd_start, at.acked),
            snd_nxt=seq.add(origins.snd_start, at.sent),
            write_seq=seq.add(origins.snd_start, written),
            sndq=sndq,
            rcv_nxt=seq.add(origins.rcv, at.received),
            copied_seq=seq.add(origins.rcv, at.read),
            rcvq=unread,
            write_offset=start_offset + written,
            snapshot_offset=snapshot.snd_offset,
            fin_received=at.fin_received or self._fin_due,
            fin_sent=at.fin_sent,
            fin_acked=at.fin_acked,
        )
        read_log = self._capsule.read_log(snapshot.rcv_offset, at.read)
        options = tcp_repair.read_socket_options(self._sock)
        reply = compose(client_rcv_nxt, application, kernel, read_log, transport, options, self.role.key, attempt)
        if reply.size > LARGEST_STATE:
            raise Refused(Reason.TOO_LARGE)
        return reply

    def resume(self) -> None:
        # Before the fence opens: a request of this attempt that is still on its way must not be taken for a new one.
        self._capsule.attempt = self._fenced_for
        try:
            tcp_repair.thaw(self._sock)
        finally:
            self._capsule.fence = Fence.OPEN
        self._side.event("resumed", self, self.role.attempt)
        if self._closed_by_application:
            self.application_closed(time.monotonic())

    def close_silently(self) -> None:
        self._capsule.fence = Fence.MIGRATED
        self._side.datapath.departed(self.four_tuple)
        tcp_repair.destroy(self._sock)
        self.release()
        self.announcement = None
        self.ends_at = time.monotonic() + TOMBSTONE
        self._side.event("left", self, self.role.attempt)

    def withdraw(self) -> None:
        """Destroy a connection that was taken and that the client never committed to."""
        tcp_repair.freeze(self._sock)
        self.close_silently()
        self.ends_at = time.monotonic()

    def send_frame(self, server: Endpoint, frame: Frame) -> None:
        self._side.send_frame(server, frame)
        self._side.event(f"{frame.type.name.lower()}_sent", self, self.role.attempt)

    def send(self, option: AnyOption) -> None:
        if isinstance(option, AbortAck) and self.role.state is OldServer.ESTABLISHED:
            # What is confirmed the next agent must know as well.
            self._capsule.attempt = self.role.attempt
        # The kernel's numbers are not to be had without repair mode, and nobody reads them in a control segment.
        self._side.send(Segment(self.four_tuple, 0, 0, TcpFlags.ACK, 0, option))
