"""A SYN flood: forged connection attempts that nobody will complete.

SYNs may carry data, which RFC 9293 (section 3.10.7.2) allows and servers drop: seen in attacks with about 1000 bytes
("Tsunami SYN flood", Radware, 2014), they fill the link as well as the queue of half-open connections.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from testbed.attack.frames import Frames, syn
from testbed.attack.sender import BATCH, Way

HEADERS = 74
"""Bytes of a frame without data."""
MOST = 1440
"""Bytes of data in a frame of Ethernet, beside OPTIONS."""
OPTIONS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
"""Those of a Linux client."""


def frames(
    way: Way, ip: str, port: int, sources: IPv4Network | None, seed: int, size: int = BATCH, payload: int = 0
) -> Frames:
    """SYNs to `ip` and `port` from addresses in `sources` (None: this host's own), each another connection's.

    `payload`: bytes of data in each. ValueError when they do not fit, or are an odd number.
    """
    if not 0 <= payload <= MOST or payload % 2:
        raise ValueError(f"a SYN cannot have {payload} bytes here: an even number, {MOST} at most")

    def vary(batch: Frames) -> None:
        batch.put_sources(sources)

    addresses = {"src_mac": way.mac, "dst_mac": way.next_mac, "src": way.source, "dst": ip, "dport": port}
    return Frames(syn(addresses, OPTIONS, payload), size, seed, vary)
