"""What a client's kernel has received, which is more than it has acknowledged."""

from __future__ import annotations

import dataclasses

from mtcp import seq
from mtcp.linux import tcp_info
from mtcp.linux.datapath import Entry
from mtcp.linux.sockdiag import SockDiag


def up_to_date(entry: Entry, sockets: SockDiag) -> Entry:
    """The entry with `rcv_nxt` and `window` as the client's kernel has them (tcpi_bytes_received).

    What nobody has acknowledged yet the new server would send again. Where that fills its first window the client
    would get nothing new for one more round trip. Never more than the current server has been seen to send: after a
    move the socket may be ahead of it.
    """
    try:
        found = sockets.find(entry.four_tuple)
    except OSError:
        return entry
    info = tcp_info.parse(found.info) if found is not None else {}
    if "bytes_received" not in info:
        return entry
    received = seq.add(entry.rcv_start, info["bytes_received"])
    if seq.after(received, entry.seq_max):
        received = entry.seq_max
    more = seq.diff(received, entry.rcv_nxt)
    if more <= 0:
        return entry
    # The window ends where it did.
    used = -(-more >> (info["wscale"] >> 4))
    return dataclasses.replace(entry, rcv_nxt=received, window=max(0, entry.window - used))
