"""What of a connection goes from the old server to the new one, and the arithmetic of it.

The one file in which the sequence numbers of a move are computed (PROTOCOL.md, "Arithmetic"). Names are those of
the M-TCP papers' state reply. Stream offsets are 64-bit and count from the capsule's origins; numbers named
`…_seq`, `snd_una`, `rcv_nxt` and the like are 32-bit sequence numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from mtcp import seq
from mtcp.errors import Reason

SS_CANTSENDMORE = 0x10
"""Bit of so_state: the application had ended its stream when it exported (4.4BSD's name and number)."""


class TcpState(IntEnum):
    """States of a connection that may move (linux/tcp_states.h)."""

    ESTABLISHED = 1
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    CLOSE_WAIT = 8
    LAST_ACK = 9
    CLOSING = 11


MOVABLE = frozenset(TcpState)
FIN_RECEIVED = frozenset({TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.CLOSING})
"""The client has ended its stream."""
FIN_SENT = MOVABLE - {TcpState.ESTABLISHED, TcpState.CLOSE_WAIT}
"""The server has ended its stream; its FIN may still wait behind data."""


class Refused(Exception):
    """The state cannot be handed over, for `reason`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


@dataclass(frozen=True)
class TcpSnapshot:
    """The transport's state, as the old server's kernel told it (TCP_INFO, TCP_REPAIR_WINDOW, TCP_TIMESTAMP)."""

    t_state: int
    """A TcpState: in a dump the old socket's; in a state reply what the new one's shall be once it has sent
    write_buffer: ESTABLISHED, or CLOSE_WAIT, FIN_WAIT1, LAST_ACK after the client's FIN, ours, both."""
    t_state_transitions: int
    """How many servers the connection has had before."""
    t_flags: int
    """Options negotiated: TCPI_OPT_TIMESTAMPS 1, TCPI_OPT_SACK 2, TCPI_OPT_WSCALE 4."""
    t_maxseg: int
    """Largest segment that the client takes, bytes."""
    snd_wscale: int
    rcv_wscale: int
    timestamp: int
    """The old server's TSval clock; the new one's must go on from it (PAWS)."""
    snd_wnd: int
    """Bytes the client may be sent, already scaled: beyond snd_una in a dump, beyond snd_max_seen in a state reply."""
    max_window: int
    rcv_wnd: int
    rcv_wup: int


@dataclass(frozen=True)
class SoSnapshot:
    """The socket's own options."""

    so_state: int
    """Bits: SS_CANTSENDMORE."""
    so_options: int
    """Bits: SO_KEEPALIVE 1, TCP_NODELAY 2."""
    so_linger: int
    """Seconds, or -1 when SO_LINGER is off."""


@dataclass(frozen=True)
class ApplicationSnapshot:
    """What the capsule holds: the state last exported, and where in the two streams it was."""

    state: bytes
    rcv_seq_snapshot: int
    """Next byte that the application would have read when it exported."""
    snd_seq_snapshot: int
    """Next byte that it would have written."""
    ended: bool = False
    """Whether it had ended its stream."""


@dataclass(frozen=True)
class KernelQueues:
    """The old server's kernel, deaf and in repair mode. Sequence numbers are of data: FINs are told apart."""

    snd_una: int
    snd_nxt: int
    write_seq: int
    """Next byte that the application would have written into the kernel."""
    sndq: bytes
    """[snd_una, write_seq), or less of its end when nothing of it will be needed."""
    rcv_nxt: int
    copied_seq: int
    rcvq: bytes
    """[copied_seq, rcv_nxt): not read by the application yet."""
    write_offset: int
    """Stream offset of write_seq, beyond 32 bits."""
    snapshot_offset: int
    """Stream offset of snd_seq_snapshot."""
    fin_received: bool = False
    """The client's FIN follows at rcv_nxt."""
    fin_sent: bool = False
    """Ours follows at write_seq."""
    fin_acked: bool = False


@dataclass(frozen=True)
class StateReply:
    """All that the new server needs."""

    rcv_seq_snapshot: int
    last_ack_sent: int
    """After the client's FIN, if that has been received."""
    snd_seq_snapshot: int
    snd_max_seen: int
    snd_bytes_discard: int
    """64-bit: an application may export once and then send more than 4 GiB."""
    tcp_snapshot: TcpSnapshot
    so_snapshot: SoSnapshot
    key: bytes
    attempt: int
    application_state: bytes
    write_buffer: bytes
    """[snd_max_seen, snd_seq_snapshot), if any."""
    read_buffer: bytes
    """[rcv_seq_snapshot, last_ack_sent) without a FIN: read log, then what the kernel held unread."""

    @property
    def size(self) -> int:
        """Bytes of state and buffers, without the numbers."""
        return len(self.application_state) + len(self.write_buffer) + len(self.read_buffer)

    @property
    def rcv_state_length(self) -> int:
        return len(self.read_buffer)

    @property
    def fin_received(self) -> bool:
        """Whether the client's FIN follows the read buffer."""
        return self.tcp_snapshot.t_state in FIN_RECEIVED

    def without_data(self) -> StateReply:
        """The numbers alone."""
        return replace(self, application_state=b"", write_buffer=b"", read_buffer=b"")

    @property
    def fin_sent(self) -> bool:
        """Whether the new server's FIN follows the write buffer at once, unless its application sends it."""
        return self.tcp_snapshot.t_state in FIN_SENT

    @property
    def ended(self) -> bool:
        """Whether the application had ended its stream when it exported."""
        return bool(self.so_snapshot.so_state & SS_CANTSENDMORE)


def snd_max_seen(client_rcv_nxt: int, snd_una: int) -> int:
    """The first byte that the new server sends: the client's report may lag behind what it has acknowledged."""
    return seq.latest(client_rcv_nxt, snd_una)


def check_ahead(client_rcv_nxt: int, snd_nxt: int) -> None:
    """Raise Refused(AHEAD) when the client claims bytes that were never sent."""
    if seq.after(client_rcv_nxt, snd_nxt):
        raise Refused(Reason.AHEAD)


def compose(
    client_rcv_nxt: int,
    application: ApplicationSnapshot,
    queues: KernelQueues,
    read_log: bytes,
    tcp_snapshot: TcpSnapshot,
    so_snapshot: SoSnapshot,
    key: bytes,
    attempt: int,
) -> StateReply:
    """Build the state reply; Refused says why not.

    `read_log` is [rcv_seq_snapshot, copied_seq).
    """
    check_ahead(client_rcv_nxt, seq.add(queues.snd_nxt, queues.fin_sent))
    fin_acked = queues.fin_acked or seq.after(client_rcv_nxt, queues.write_seq)
    first = queues.write_seq if fin_acked else snd_max_seen(client_rcv_nxt, queues.snd_una)
    first_offset = queues.write_offset - seq.diff(queues.write_seq, first)
    unsent = queues.snapshot_offset - first_offset
    write_buffer = b""
    if unsent > 0:
        start = seq.diff(first, queues.write_seq) + len(queues.sndq)
        write_buffer = queues.sndq[start : start + unsent]
        if start < 0 or len(write_buffer) != unsent:
            raise Refused(Reason.INVALID_STATE)
    read_buffer = read_log + queues.rcvq
    if seq.add(application.rcv_seq_snapshot, len(read_buffer)) != queues.rcv_nxt:
        raise Refused(Reason.LOG_OVERFLOW)
    # A FIN that was sent is sent again: at once if all before it is there, and if not by the application, which will
    # write that again and end the stream again.
    ends = queues.fin_sent and (application.ended or fin_acked)
    # After a FIN rcv_wup is one further than the socket that is restored from the data.
    taken = int(queues.fin_received and seq.after(tcp_snapshot.rcv_wup, queues.rcv_nxt))
    return StateReply(
        rcv_seq_snapshot=application.rcv_seq_snapshot,
        last_ack_sent=seq.add(queues.rcv_nxt, queues.fin_received),
        snd_seq_snapshot=application.snd_seq_snapshot,
        snd_max_seen=first,
        snd_bytes_discard=max(0, -unsent),
        tcp_snapshot=replace(
            tcp_snapshot,
            t_state=_state_after(queues.fin_received, ends),
            snd_wnd=max(0, tcp_snapshot.snd_wnd - seq.diff(first, queues.snd_una)),
            rcv_wnd=tcp_snapshot.rcv_wnd + taken,
            rcv_wup=seq.add(tcp_snapshot.rcv_wup, -taken),
        ),
        so_snapshot=replace(so_snapshot, so_state=SS_CANTSENDMORE if application.ended else 0),
        key=key,
        attempt=attempt,
        application_state=application.state,
        write_buffer=write_buffer,
        read_buffer=read_buffer,
    )


def _state_after(fin_received: bool, fin_sent: bool) -> TcpState:
    if fin_received:
        return TcpState.LAST_ACK if fin_sent else TcpState.CLOSE_WAIT
    return TcpState.FIN_WAIT1 if fin_sent else TcpState.ESTABLISHED


def send_window(reply: StateReply, client_rcv_nxt: int, client_window: int) -> int:
    """Bytes the new server may send beyond snd_max_seen: up to the right edge that the client last offered.

    The edge in the client's own words may be newer than the old server's, or the other way round; an edge once
    offered is not taken back (RFC 9293 section 3.8.6), so the later one holds. `client_window` is the raw 16-bit field.
    """
    old_edge = reply.tcp_snapshot.snd_wnd
    own_edge = seq.diff(client_rcv_nxt, reply.snd_max_seen) + (client_window << reply.tcp_snapshot.snd_wscale)
    return max(0, old_edge, own_edge)


def receive_window(reply: StateReply) -> int:
    """The raw 16-bit window that the new server must advertise to take back nothing of what the old one offered.

    Rounded up to the window scale's unit, as the kernel does (tcp_select_window).
    """
    edge = seq.add(reply.tcp_snapshot.rcv_wup, reply.tcp_snapshot.rcv_wnd)
    left = max(0, seq.diff(edge, reply.last_ack_sent))
    return min(0xFFFF, -(-left >> reply.tcp_snapshot.rcv_wscale))


def clients_fin(reply: StateReply, client_rcv_nxt: int, client_window: int) -> tuple[int, int, int]:
    """(seq, ack, raw window) of the client's FIN as it would be, had it come to the new server."""
    window = send_window(reply, client_rcv_nxt, client_window) >> reply.tcp_snapshot.snd_wscale
    return seq.add(reply.last_ack_sent, -1), reply.snd_max_seen, min(0xFFFF, window)


def advertised(reply: StateReply) -> tuple[int, int, int]:
    """(seq, ack, raw window) of a segment that repeats where the restored socket starts.

    If it starts with a FIN, after that: one that the client had already would put the segment out of its window.
    """
    first = seq.add(reply.snd_max_seen, reply.fin_sent and not reply.write_buffer)
    return first, reply.last_ack_sent, receive_window(reply)
