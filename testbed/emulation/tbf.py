"""Bottlenecks: token buckets. They split super-packets (GSO) that they cannot hold, so the hosts' offloads stay on.

A bucket holds what passes in 1.2 ms. From 500 Mbit/s on that is a whole super-packet, and none is split: splitting
would take most of the processor's time. The price: there, a full buffer drops dozens of segments at once.
"""

from __future__ import annotations

import json
import math
from typing import Any

from testbed.emulation.conditions import Conditions
from testbed.emulation.middle import Middle

_FRAME = 1514  # bytes
_BURST, _LEAST_BURST = 0.0012, 15_000  # seconds, bytes
_UNLIMITED = Conditions(bandwidth=1e11, queue=100_000)


def command(port: str, conditions: Conditions) -> str:
    """The command of tc that makes `port` the bottleneck of what leaves by it, or changes it; what waits there stays.

    Without a limit there is a bucket all the same: packets are lost when a queueing discipline comes or goes.
    """
    if conditions.bandwidth == math.inf:
        conditions = _UNLIMITED
    size = f"burst {bucket(conditions.bandwidth)} limit {conditions.queue * _FRAME}"
    rate = f"rate {round(conditions.bandwidth)}bit {size}"
    return f"qdisc replace dev {port} root handle 1: tbf {rate}"


def bucket(bandwidth: float) -> int:
    """Bytes that pass at once after a pause, before `bandwidth` (bit/s) is all that passes."""
    return max(_LEAST_BURST, round(bandwidth / 8 * _BURST))


def redirection(source: str, to: str) -> list[str]:
    """The commands of tc that let what comes to the port `source` leave by the port `to`.

    A copy of it: the packet itself would count as the sender's until it has left the bottleneck, as if that were on the
    sending host. UDP senders and floods would wait for room there instead of losing packets.
    """
    everything = "protocol all u32 match u32 0 0"
    return [
        f"qdisc add dev {source} ingress",
        f"filter add dev {source} parent ffff: {everything} action mirred egress mirror dev {to} drop",
    ]


def statistics(middle: Middle) -> dict[str, dict[str, Any]]:
    """What tc tells of each port's root queueing discipline, by the port: packets, drops, backlog (bytes) ..."""
    listed = json.loads(middle.output("tc", "-j", "-s", "qdisc", "show"))
    return {each["dev"]: each for each in listed if each.get("root") and each["kind"] in ("tbf", "netem")}
