"""A flood of forged moves: SYNs with MIGRATE whose MACs are wrong.

Each is another attempt: its own port, number and MAC.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from mtcp.address import Endpoint
from mtcp.wire import options
from mtcp.wire.options import Migrate
from testbed.attack.frames import Frames, syn
from testbed.attack.sender import BATCH, Way

_RCV_NXT, _ATTEMPT, _MAC = 16, 12, 8
"""From the option's end (mtcp.wire.moving)."""


def frames(
    way: Way, target: Endpoint, old: Endpoint, sources: IPv4Network | None, seed: int, size: int = BATCH
) -> Frames:
    """To `target`, as if `old` had the connections; sources as for SYNs (testbed.attack.syn)."""
    option = options.encode(Migrate(old, 0, 0))
    addresses = {"src_mac": way.mac, "dst_mac": way.next_mac, "src": way.source, "dst": target.ip}
    template = syn({**addresses, "dport": target.port}, [(option[0], option[2:]), ("EOL", None)])
    end = template.index(option) + len(option)

    def vary(batch: Frames) -> None:
        batch.put_sources(sources)
        batch.put_random(end - _RCV_NXT, 4)
        batch.put_between(end - _ATTEMPT, ">u4", 1, 1000)
        batch.put_random(end - _MAC, 8)

    return Frames(template, size, seed, vary)
