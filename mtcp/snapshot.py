"""What of a connection goes from the old server to the new one, and the arithmetic of it.

The one file in which the sequence numbers of a move are computed (PROTOCOL.md, "Arithmetic"). Names are those of
the M-TCP papers' state reply. Stream offsets are 64-bit and count from the capsule's origins; numbers named
`…_seq`, `snd_una`, `rcv_nxt` and the like are 32-bit sequence numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mtcp import seq
from mtcp.errors import Reason


class Refused(Exception):
    """The state cannot be handed over, for `reason`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


@dataclass(frozen=True)
class TcpSnapshot:
    """The transport's state, as the old server's kernel told it (TCP_INFO, TCP_REPAIR_WINDOW, TCP_TIMESTAMP)."""

    t_state: int
    """TCP_ESTABLISHED is 1, as in linux/tcp_states.h."""
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


@dataclass(frozen=True)
class KernelQueues:
    """The old server's kernel, deaf and in repair mode."""

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


@dataclass(frozen=True)
class StateReply:
    """All that the new server needs."""

    rcv_seq_snapshot: int
    last_ack_sent: int
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
    """[rcv_seq_snapshot, last_ack_sent): read log, then what the kernel held unread."""

    @property
    def rcv_state_length(self) -> int:
        return len(self.read_buffer)


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
    check_ahead(client_rcv_nxt, queues.snd_nxt)
    first = snd_max_seen(client_rcv_nxt, queues.snd_una)
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
    return StateReply(
        rcv_seq_snapshot=application.rcv_seq_snapshot,
        last_ack_sent=queues.rcv_nxt,
        snd_seq_snapshot=application.snd_seq_snapshot,
        snd_max_seen=first,
        snd_bytes_discard=max(0, -unsent),
        tcp_snapshot=replace(tcp_snapshot, snd_wnd=max(0, tcp_snapshot.snd_wnd - seq.diff(first, queues.snd_una))),
        so_snapshot=so_snapshot,
        key=key,
        attempt=attempt,
        application_state=application.state,
        write_buffer=write_buffer,
        read_buffer=read_buffer,
    )


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
