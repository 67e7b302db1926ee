"""What one direction of a link does to its packets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from testbed import units
from testbed.errors import TestbedError

QUEUE = 250
"""Buffer of a bottleneck in full-sized packets, unless told otherwise: 30 ms at 100 Mbit/s."""

NAMES = ("bw", "delay", "jitter", "loss", "queue")
"""The parameters of a link, as its users write them."""


class LinkError(TestbedError):
    """The link cannot be what was asked for."""


@dataclass(frozen=True)
class Conditions:
    """Base units: bit/s, seconds, probabilities. The defaults change nothing."""

    bandwidth: float = math.inf
    """Bit/s of the bottleneck, Ethernet headers included."""
    delay: float = 0.0
    """Seconds from one end to the other, without what the bottleneck adds."""
    jitter: float = 0.0
    """Seconds by which the delay is shorter or longer at most."""
    loss: float = 0.0
    """Probability that a packet is lost, each independently of all others."""
    queue: int = QUEUE
    """Full-sized packets that wait at the bottleneck at most."""

    def changed(self, values: Mapping[str, Any]) -> Conditions:
        """These with `values` as people write them (NAMES; None: back to the default); LinkError."""
        new = replace(self, **{_FIELDS[name][0]: _read(name, value) for name, value in values.items()})
        if not 1e4 <= new.bandwidth <= 1e11 and new.bandwidth != math.inf:
            raise LinkError(f"{new.bandwidth / 1e6:g} Mbit/s is not a bandwidth between 0.01 and 100000 Mbit/s")
        if new.delay + new.jitter > 60:
            raise LinkError(f"a delay of {new.delay + new.jitter:g} s is more than a minute")
        if new.jitter > new.delay:
            raise LinkError(f"a jitter of {new.jitter * 1e3:g} ms is more than the delay, {new.delay * 1e3:g} ms")
        if not 1 <= new.queue <= 1_000_000:
            raise LinkError(f"a queue of {new.queue} packets is not one of 1 to 1000000")
        return new


_FIELDS: dict[str, tuple[str, Callable[[Any], float], float]] = {
    "bw": ("bandwidth", units.mbit, 1e6),
    "delay": ("delay", units.milliseconds, 1e-3),
    "jitter": ("jitter", units.milliseconds, 1e-3),
    "loss": ("loss", units.percent, 1e-2),
    "queue": ("queue", int, 1),
}


def _read(name: str, value: Any) -> Any:
    """The `value` of the parameter `name` in base units."""
    field, convert, factor = _FIELDS[name]
    if value is None:
        return getattr(Conditions, field)
    try:
        return convert(value) * factor
    except (ValueError, TypeError) as error:
        raise LinkError(f"{name}: {error}") from None
