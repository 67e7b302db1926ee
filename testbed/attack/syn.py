"""A SYN flood: forged connection attempts that nobody will complete."""

from __future__ import annotations

from ipaddress import IPv4Network

from testbed.attack.frames import Frames, syn
from testbed.attack.sender import BATCH, Way

OPTIONS = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
"""Those of a Linux client."""


def frames(way: Way, ip: str, port: int, sources: IPv4Network | None, seed: int, size: int = BATCH) -> Frames:
    """SYNs to `ip` and `port` from addresses in `sources` (None: this host's own), each another connection's."""

    def vary(batch: Frames) -> None:
        batch.put_sources(sources)

    addresses = {"src_mac": way.mac, "dst_mac": way.next_mac, "src": way.source, "dst": ip, "dport": port}
    return Frames(syn(addresses, OPTIONS), size, seed, vary)
