"""The kernel's account of a TCP connection, struct tcp_info, by the names of its fields (linux/tcp.h, without `tcpi_`).

Counts are since the connection began, rates in bytes/s, times in microseconds but for rto, ato (also microseconds) and
last_data_sent, last_data_recv, last_ack_recv (milliseconds). A kernel that knows less of them tells less.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate

_LAYOUT: Sequence[tuple[str, str]] = (
    ("B", "state ca_state retransmits probes backoff options wscale flags"),
    ("I", "rto ato snd_mss rcv_mss unacked sacked lost retrans fackets"),
    ("I", "last_data_sent last_ack_sent last_data_recv last_ack_recv"),
    ("I", "pmtu rcv_ssthresh rtt rttvar snd_ssthresh snd_cwnd advmss reordering rcv_rtt rcv_space total_retrans"),
    ("Q", "pacing_rate max_pacing_rate bytes_acked bytes_received"),
    ("I", "segs_out segs_in notsent_bytes min_rtt data_segs_in data_segs_out"),
    ("Q", "delivery_rate busy_time rwnd_limited sndbuf_limited"),
    ("I", "delivered delivered_ce"),
    ("Q", "bytes_sent bytes_retrans"),
    ("I", "dsack_dups reord_seen rcv_ooopack snd_wnd rcv_wnd rehash"),
    ("H", "total_rto total_rto_recoveries"),
    ("I", "total_rto_time"),
)
FIELDS = tuple(name for _, names in _LAYOUT for name in names.split())
_FORMAT = struct.Struct("=" + "".join(kind * len(names.split()) for kind, names in _LAYOUT))
_ENDS = tuple(accumulate(struct.calcsize(f"={kind}") for kind, names in _LAYOUT for _ in names.split()))


def parse(info: bytes) -> dict[str, int]:
    """The fields that are in `info`, as TCP_INFO or INET_DIAG_INFO give it; none for empty `info`."""
    known = FIELDS if len(info) >= _FORMAT.size else FIELDS[: sum(end <= len(info) for end in _ENDS)]
    return dict(zip(known, _FORMAT.unpack_from(info.ljust(_FORMAT.size, b"\0")), strict=False))
