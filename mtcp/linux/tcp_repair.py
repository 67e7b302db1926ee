"""The servers' engine: read a live TCP socket out of the kernel, build one in another kernel (tcp(7), TCP_REPAIR).

Orders of calls matter; each comment says what the other order costs. Kernel: net/ipv4/tcp.c, do_tcp_setsockopt.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from mtcp import seq
from mtcp.address import Endpoint, FourTuple
from mtcp.capsule import Origins
from mtcp.errors import MtcpError, Reason
from mtcp.snapshot import (
    FIN_RECEIVED,
    FIN_SENT,
    MOVABLE,
    Refused,
    SoSnapshot,
    StateReply,
    TcpSnapshot,
    TcpState,
    send_window,
)

TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS = 19, 20, 21, 22
TCP_TIMESTAMP, TCP_REPAIR_WINDOW = 24, 29
REPAIR_ON, REPAIR_OFF, REPAIR_OFF_NO_PROBE = 1, 0, -1
NO_QUEUE, RECV_QUEUE, SEND_QUEUE = 0, 1, 2
OPT_MSS, OPT_WINDOW, OPT_SACK, OPT_TIMESTAMPS = 2, 3, 4, 8
TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE = 1, 2, 4
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_BUF_LOCK = 32, 33, 72
SIOCINQ, SIOCOUTQ, SIOCOUTQNSD = 0x541B, 0x5411, 0x894B
KEEPALIVE, NODELAY = 1, 2
MAX_WSCALE = 14  # RFC 7323
BUFFER_MAX = 1 << 28
"""Bytes beyond which a larger buffer is not what the kernel lacks."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Counters:
    """How far a socket is in its two streams, in bytes since it was made (64-bit; TCP_INFO, SIOCINQ, SIOCOUTQ).

    Bytes of data: FINs, which the kernel counts too, are in `state`.
    """

    state: int
    """A TcpState, or one of a connection that has ended or not begun."""
    received: int
    read: int
    """By the application."""
    acked: int
    sent: int
    written: int
    """By the application."""

    @property
    def fin_received(self) -> bool:
        return self.state in FIN_RECEIVED

    @property
    def fin_sent(self) -> bool:
        return self.state in FIN_SENT

    @property
    def fin_acked(self) -> bool:
        return self.state == TcpState.FIN_WAIT2


def check_support() -> None:
    """MtcpError unless this process may put a socket into repair mode."""
    with socket.socket() as probe:
        try:
            _set(probe, TCP_REPAIR, REPAIR_ON)
        except PermissionError:
            raise MtcpError("TCP_REPAIR needs CAP_NET_ADMIN: run the agent as root") from None
        except OSError as e:
            raise MtcpError(f"this kernel has no TCP_REPAIR ({e.strerror}); it is in Linux since 3.5") from None


def _set(sock: socket.socket, option: int, value: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, option, struct.pack("=I", value & 0xFFFFFFFF))


def _get(sock: socket.socket, option: int) -> int:
    value: int = struct.unpack("=I", sock.getsockopt(socket.IPPROTO_TCP, option, 4))[0]
    return value


def _ioctl(sock: socket.socket, request: int) -> int:
    value = array.array("i", [0])
    fcntl.ioctl(sock, request, value)
    return value[0]


def attach_filter(sock: socket.socket, *instructions: tuple[int, int, int, int]) -> None:
    """Classic BPF filter of (code, jt, jf, k); on a TCP socket the segments it drops never happened."""
    program = b"".join(struct.pack("=HBBI", *i) for i in instructions)
    buffer = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
    )


RETURN_0 = (0x06, 0, 0, 0)


def freeze(sock: socket.socket) -> tuple[Counters, bytes]:
    """Make the socket deaf and put it into repair mode: from here on neither network nor application changes it.

    Returns where it is, and what it has received that was not read. That is fetched before repair mode: in it that
    takes the queue selector, and an application that is just calling send() would then write into its own receive
    queue. With no queue selected the kernel refuses it (EINVAL). Repeated until nothing moves, for a segment may have
    passed the filter just before, and the application may be reading.
    """
    attach_filter(sock, RETURN_0)
    if is_frozen(sock):  # by an agent that has ended; to look into the queue it must not be
        _set(sock, TCP_REPAIR, REPAIR_OFF_NO_PROBE)
    while True:
        before, unread = counters(sock), b""
        if before.received > before.read:
            with contextlib.suppress(BlockingIOError):  # the application was faster
                unread = sock.recv(before.received - before.read, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        _set(sock, TCP_REPAIR, REPAIR_ON)
        after = counters(sock)
        still = (after.state, after.received, after.read) == (before.state, before.received, before.read)
        if still and len(unread) == after.received - after.read:
            return after, unread
        _set(sock, TCP_REPAIR, REPAIR_OFF_NO_PROBE)


def thaw(sock: socket.socket) -> None:
    """Undo `freeze`, or what there is of it. The kernel sends a window probe, to which the client answers with where it
    is."""
    if is_deaf(sock):
        sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    _leave_repair(sock)


def is_deaf(sock: socket.socket) -> bool:
    """Whether the socket has a filter: what `freeze` does first, and `thaw` undoes first."""
    # With no room for it the kernel says how long the filter is, and no more (sk_get_filter).
    length = ctypes.c_uint32(0)
    if _libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, SO_ATTACH_FILTER, None, ctypes.byref(length)):
        return True  # one that came as an eBPF program has no such length
    return length.value > 0


def is_frozen(sock: socket.socket) -> bool:
    """Whether the socket is in repair mode."""
    return bool(_get(sock, TCP_REPAIR))


def stay_frozen(sock: socket.socket) -> None:
    """Into repair mode again, if whoever was freezing the deaf socket has ended before."""
    if not is_frozen(sock):
        _set(sock, TCP_REPAIR, REPAIR_ON)


def _leave_repair(sock: socket.socket) -> None:
    _set(sock, TCP_REPAIR, REPAIR_OFF)
    # Repair mode leaves the port unshareable; the application could not listen on it again after a restart.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def counters(sock: socket.socket) -> Counters:
    """Where the socket is; consistent only when it is frozen."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    acked, received = struct.unpack_from("=QQ", info, 120)
    unsent, before = _ioctl(sock, SIOCOUTQNSD), -1
    while unsent != before:  # an application in send() writes on, even when the socket is frozen
        end, before = acked + _ioctl(sock, SIOCOUTQ), unsent
        unsent = _ioctl(sock, SIOCOUTQNSD)
    sent = end - unsent
    unread = _ioctl(sock, SIOCINQ)
    written, received = end - (info[0] in FIN_SENT), received - (info[0] in FIN_RECEIVED)
    # SIOCINQ alone does not count a FIN.
    return Counters(info[0], received, received - unread, min(acked, written), min(sent, written), written)


def read_send_queue(sock: socket.socket) -> tuple[int, bytes]:
    """How many bytes were written to a frozen socket, and those of them that the client has not acknowledged.

    More than when it was frozen, if the application was in send() then: that call goes on, and adds to the end of the
    queue. None of it is sent from here.
    """
    while True:
        before = counters(sock)
        outq = before.written - before.acked
        # The first buffer may still hold bytes that were acknowledged: ask for more than outq and keep the end.
        data = _peek(sock, SEND_QUEUE, outq + (1 << 17)) if outq else b""
        if counters(sock) == before:
            return before.written, data[-outq:] if outq else b""


def _peek(sock: socket.socket, queue: int, n: int) -> bytes:
    _set(sock, TCP_REPAIR_QUEUE, queue)
    try:
        return sock.recv(n, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    finally:
        _set(sock, TCP_REPAIR_QUEUE, NO_QUEUE)


def read_transport(sock: socket.socket, transitions: int) -> TcpSnapshot:
    """The transport's state of a frozen socket; Refused(INVALID_STATE) when the connection is over."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
    if info[0] not in MOVABLE:
        raise Refused(Reason.INVALID_STATE)
    window = sock.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, 20)
    _, snd_wnd, max_window, rcv_wnd, rcv_wup = struct.unpack("=5I", window)
    return TcpSnapshot(
        t_state=info[0],
        t_state_transitions=min(255, transitions),
        t_flags=info[5] & (TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE),
        t_maxseg=_get(sock, socket.TCP_MAXSEG),
        snd_wscale=info[6] & 15,
        rcv_wscale=info[6] >> 4,
        timestamp=_get(sock, TCP_TIMESTAMP),
        snd_wnd=snd_wnd,
        max_window=max_window,
        rcv_wnd=rcv_wnd,
        rcv_wup=rcv_wup,
    )


def read_socket_options(sock: socket.socket) -> SoSnapshot:
    """The options that an application sets and expects to keep."""
    on, seconds = struct.unpack("=ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    options = KEEPALIVE * bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
    options |= NODELAY * bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    return SoSnapshot(so_state=0, so_options=options, so_linger=seconds if on else -1)


def close(sock: socket.socket) -> None:
    """Close it without waiting for what it has still to send, also if the application has set SO_LINGER."""
    if sock.fileno() >= 0 and not is_to_be_reset(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 0, 0))
    sock.close()


def is_to_be_reset(sock: socket.socket) -> bool:
    """Whether the application has asked, by SO_LINGER of no seconds, for a reset when it closes."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("=ii", 1, 0)


def destroy(sock: socket.socket) -> None:
    """End a frozen socket without a segment, and wake whoever waits in it, in any process, with an error.

    close() would not do: the application holds the socket too. In repair mode disconnecting is silent
    (tcp_disconnect).
    """
    if _libc.connect(sock.fileno(), b"\0" * 16, 16):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def restore(reply: StateReply, four_tuple: FourTuple, client_rcv_nxt: int, client_window: int) -> socket.socket:
    """A socket in repair mode, ESTABLISHED between the two ends of `four_tuple`, that goes on from `reply`.

    It has sent nothing; `go` lets it. OSError when the kernel refuses (EADDRNOTAVAIL: the 4-tuple is in use; EFBIG: a
    window scale of more than 14, which here, where windows are computed with it, is looked at first).
    """
    if max(reply.tcp_snapshot.snd_wscale, reply.tcp_snapshot.rcv_wscale) > MAX_WSCALE:
        raise OSError(errno.EFBIG, "window scale of more than 14")
    sock = socket.socket(socket.AF_INET6 if ":" in four_tuple.local.ip else socket.AF_INET)
    try:
        _build(sock, reply, four_tuple, send_window(reply, client_rcv_nxt, client_window))
    except BaseException:
        sock.close()
        raise
    return sock


def _build(sock: socket.socket, reply: StateReply, four_tuple: FourTuple, snd_wnd: int) -> None:
    tcp = reply.tcp_snapshot
    _set(sock, TCP_REPAIR, REPAIR_ON)
    # Repair mode forces address reuse, so the listener may keep the port; bind before it would give EADDRINUSE.
    sock.bind(tuple(four_tuple.local))
    _set(sock, TCP_REPAIR_QUEUE, SEND_QUEUE)
    _set(sock, TCP_QUEUE_SEQ, reply.snd_max_seen)
    _set(sock, TCP_REPAIR_QUEUE, RECV_QUEUE)
    _set(sock, TCP_QUEUE_SEQ, reply.rcv_seq_snapshot)
    _set(sock, TCP_REPAIR_QUEUE, NO_QUEUE)
    if tcp.t_flags & TCPI_OPT_TIMESTAMPS:
        _set(sock, TCP_TIMESTAMP, tcp.timestamp)
    # connect() computes the segment size, and TCP_REPAIR_OPTIONS does not do so again: without this it stays 524.
    _set(sock, socket.TCP_MAXSEG, tcp.t_maxseg)
    sock.connect(tuple(four_tuple.remote))
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_OPTIONS, _repair_options(tcp))
    _fill_receive_queue(sock, reply.read_buffer)
    # After the receive queue, for the kernel wants rcv_wup <= rcv_nxt.
    window = (seq.add(reply.last_ack_sent, -1), snd_wnd, max(tcp.max_window, snd_wnd), tcp.rcv_wnd, tcp.rcv_wup)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, struct.pack("=5I", *window))
    options = reply.so_snapshot
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, bool(options.so_options & KEEPALIVE))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, bool(options.so_options & NODELAY))
    if options.so_linger >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, options.so_linger))


def _repair_options(tcp: TcpSnapshot) -> bytes:
    # Without window scaling, too: connect() has chosen one, and the client would be told that part of the window.
    options = [(OPT_MSS, tcp.t_maxseg), (OPT_WINDOW, tcp.snd_wscale | tcp.rcv_wscale << 16)]
    if tcp.t_flags & TCPI_OPT_SACK:
        options.append((OPT_SACK, 0))
    if tcp.t_flags & TCPI_OPT_TIMESTAMPS:
        options.append((OPT_TIMESTAMPS, 0))
    return b"".join(struct.pack("=II", *o) for o in options)


def _fill_receive_queue(sock: socket.socket, data: bytes) -> None:
    _set(sock, TCP_REPAIR_QUEUE, RECV_QUEUE)
    _write_all(sock, data, SO_RCVBUFFORCE, socket.SO_RCVBUF)
    _set(sock, TCP_REPAIR_QUEUE, NO_QUEUE)


def _write_all(sock: socket.socket, data: bytes, force: int, size: int) -> None:
    """Write `data` without waiting, forcing the buffer larger as needed and leaving its autotuning as it was.

    Unless the application sets the buffer's size at the same time: it has the socket already.
    """
    view, lock = memoryview(data), None
    while view:
        room = sock.getsockopt(socket.SOL_SOCKET, size)
        try:
            view = view[sock.send(view[: 1 << 16], socket.MSG_DONTWAIT) :]
        except OSError as e:
            # A full receive buffer is ENOBUFS or ENOMEM, by the kernel's version (tcp_send_rcvq).
            if e.errno not in (errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN):
                raise
            if sock.getsockopt(socket.SOL_SOCKET, size) != room:
                lock = None
                continue
            if room > BUFFER_MAX:
                raise
            if lock is None:
                lock = sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK)
            # The kernel doubles what it is given.
            sock.setsockopt(socket.SOL_SOCKET, force, room)
    if lock is not None:
        sock.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, lock)


def go(sock: socket.socket, write_buffer: bytes) -> None:
    """Leave repair mode and send: a window probe, then `write_buffer` at once.

    Written in repair mode the kernel would take the buffer for sent already and wait for its timer (0.3-0.4 s).
    """
    _leave_repair(sock)
    _write_all(sock, write_buffer, SO_SNDBUFFORCE, socket.SO_SNDBUF)


def has_been_acknowledged(sock: socket.socket) -> bool:
    """Whether the peer has acknowledged anything that this socket sent since it was made (tcpi_bytes_acked)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    return int(struct.unpack_from("=Q", info, 120)[0]) > 0


def offered_window(sock: socket.socket) -> int:
    """The raw window that the kernel believes to have offered (tcpi_rcv_wnd, Linux 6.2); 0 when it does not say."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 240)
    return min(0xFFFF, struct.unpack_from("=I", info, 232)[0] >> (info[6] >> 4)) if len(info) >= 236 else 0


def clients_next(sock: socket.socket, origins: Origins) -> tuple[int, int, int]:
    """(seq, ack, raw window) of what would come next from the client, if it had nothing new to say (tcpi_snd_wnd)."""
    at, info = counters(sock), sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 240)
    window = struct.unpack_from("=I", info, 228)[0] >> (info[6] & 15)
    return seq.add(origins.rcv, at.received), seq.add(origins.snd_start, at.acked), min(0xFFFF, window)


def four_tuple_of(sock: socket.socket) -> FourTuple:
    """The connection's addresses; IPv4-mapped ones as IPv4. OSError when it is not connected."""
    ends = (sock.getsockname(), sock.getpeername())
    local, remote = (Endpoint(e[0].removeprefix("::ffff:"), e[1]) for e in ends)
    return FourTuple(local, remote)
