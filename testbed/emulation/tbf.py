"""Bottlenecks: token buckets, which split super-packets (GSO), so the hosts' offloads can stay on."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from testbed.emulation.conditions import Conditions
from testbed.emulation.middle import Middle

_FRAME = 1514  # bytes
_UNLIMITED = 1e11  # bit/s
_PATIENCE = 2.0  # seconds until a queue is empty


def commands(port: str, conditions: Conditions) -> list[str]:
    """The commands of tc that make `port` the bottleneck of what leaves by it."""
    if conditions.bandwidth == math.inf:
        return []
    # A bucket of at least 15 kB; more at high rates, where timers would starve a small one.
    burst = max(15_000, round(conditions.bandwidth / 8 * 0.00025))
    rate = f"rate {round(conditions.bandwidth)}bit burst {burst} limit {conditions.queue * _FRAME}"
    return [f"qdisc replace dev {port} root handle 1: tbf {rate}"]


def change(middle: Middle, port: str, old: Conditions, new: Conditions) -> None:
    """Change the bottleneck of `port` from `old` to `new`; what waits there stays. LinkError."""
    if (old.bandwidth, old.queue) == (new.bandwidth, new.queue) or old.bandwidth == new.bandwidth == math.inf:
        return
    if new.bandwidth < math.inf:
        middle.tc(*commands(port, new))
        return
    # To remove a bucket is to lose what is in it: empty it first.
    middle.tc(*commands(port, Conditions(bandwidth=_UNLIMITED, queue=old.queue)))
    deadline = time.monotonic() + _PATIENCE
    while statistics(middle).get(port, {}).get("backlog", 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    middle.tc(f"qdisc delete dev {port} root")


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
