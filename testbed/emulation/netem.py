"""netem: the kernel's delay, jitter and loss, where it has them."""

from __future__ import annotations

from testbed.emulation.conditions import Conditions, LinkError
from testbed.emulation.middle import Middle

_LIMIT = 100_000
"""Packets under way in one direction. What is more is lost; the bottleneck before netem is to be the only queue."""


def command(port: str, conditions: Conditions) -> str:
    """The command of tc that delays and loses what leaves by `port`, or changes how."""
    delay = f"delay {_us(conditions.delay)}us" + (f" {_us(conditions.jitter)}us" if conditions.jitter else "")
    loss = f" loss random {conditions.loss * 100:.6f}%" if conditions.loss else ""
    # With a rate, of whatever height, netem keeps the order: without, a shorter delay lets packets overtake others.
    return f"qdisc replace dev {port} root handle 1: netem limit {_LIMIT} {delay}{loss} rate 100gbit"


def present(middle: Middle) -> bool:
    """Whether this kernel has it."""
    try:
        middle.tc("qdisc add dev lo root netem delay 1ms", "qdisc delete dev lo root")
    except LinkError:
        return False
    return True


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
