"""What a client asked for in its SYN, which the kernel keeps for whoever set TCP_SAVE_SYN on the listener."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from mtcp.wire import options

TCP_SAVE_SYN, TCP_SAVED_SYN = 27, 28
MPTCP = 30
"""Kind of Multipath TCP's options (RFC 8684)."""


def asked_for_mtcp(sock: socket.socket) -> bool:
    """Whether the SYN of this accepted connection carried CAPABLE, and its client can be moved.

    A client on a Multipath TCP socket cannot, although it has fallen back to TCP: its kernel's Multipath layer
    (Linux 6.18) loses count when two servers cut the stream differently, and its application waits for ever.
    """
    try:
        syn = sock.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, 512)
    except OSError:
        return False
    ip = 40 if syn and syn[0] >> 4 == 6 else 4 * (syn[0] & 15) if syn else 0
    if len(syn) < ip + 20:
        return False
    tcp_options = syn[ip + 20 : ip + (syn[ip + 12] >> 4) * 4]
    return isinstance(options.find(tcp_options), options.Capable) and MPTCP not in _kinds(tcp_options)


def _kinds(tcp_options: bytes) -> Iterator[int]:
    """The kinds of all options of a TCP header, up to the first malformed one."""
    at = 0
    while at < len(tcp_options) and tcp_options[at]:
        kind = tcp_options[at]
        yield kind
        length = 1 if kind == 1 else tcp_options[at + 1] if at + 1 < len(tcp_options) else 0
        if length < 1 or (kind != 1 and length < 2):
            return
        at += length
