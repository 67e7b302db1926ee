"""What of struct tcp_info a policy sees, by the names of View."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def observed(info: Mapping[str, int], now: float) -> dict[str, Any]:
    """Of `info`, as mtcp.linux.tcp_info.parse gives it: what the kernel tells, and knows; the rest stays away.

    Source: tcp_get_info in net/ipv4/tcp.c. The times are as exact as the kernel's ticks, 1 to 10 ms.
    """
    seen: dict[str, Any] = {}
    for name, field in (
        ("segments_received", "data_segs_in"),
        ("segments_sent", "data_segs_out"),
        ("out_of_order", "rcv_ooopack"),
        ("retransmitted", "total_retrans"),
    ):
        if field in info:
            seen[name] = info[field]
    for name, field in (("srtt", "rtt"), ("receive_rtt", "rcv_rtt"), ("min_rtt", "min_rtt")):
        # 0 and all ones: there is none yet.
        if 0 < info.get(field, 0) < 0xFFFFFFFF:
            seen[name] = info[field] / 1e6
    if seen.get("segments_sent"):
        seen["asked_at"] = now - info["last_data_sent"] / 1e3
    if seen.get("segments_received"):
        seen["heard_at"] = now - info["last_data_recv"] / 1e3
    return seen
