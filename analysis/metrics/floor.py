"""The physical limit of a lazy move: no scheme that fetches the state when the client asks can have a shorter stall.

    floor_ms = RTT(C, S2) + RTT(S1, S2) + bytes shipped / control bandwidth

The first byte of the new server is a round trip to it away; in between it needs one to the old server, and the state
itself. The links are what was asked for (testbed.selftest has checked them): factors of the trial, or what its scenario
notes in facts.floor where they are not.

floor_ms         as above, where there was a move
floor_ratio      stall_ms over it
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from analysis.observations import Observation

_RTT_CLIENT = ("rtt_client_s2_ms", "rtt")
_RTT_SERVERS = ("rtt_s1_s2_ms", "control_rtt")
_CONTROL_MBIT = ("control_mbit", "control_bw")
_SHIPPED = ("shipped_bytes", "state")
"""Where each term is found: the first that is there."""


def floor_ms(rtt_client_ms: float, rtt_servers_ms: float, shipped_bytes: float, control_mbit: float) -> float:
    """`control_mbit` 0: unlimited."""
    return rtt_client_ms + rtt_servers_ms + (shipped_bytes * 8e-3 / control_mbit if control_mbit else 0.0)


def of_trial(factors: Mapping[str, Any], links: Mapping[str, float]) -> float | None:
    """The floor of a trial's moves; None when the round-trip time to the client is not known."""
    known = {**factors, **links}

    def term(names: tuple[str, ...]) -> float | None:
        return next((float(known[name]) for name in names if name in known), None)

    rtt = term(_RTT_CLIENT)
    if rtt is None:
        return None
    return floor_ms(rtt, term(_RTT_SERVERS) or 0.0, term(_SHIPPED) or 0.0, term(_CONTROL_MBIT) or 0.0)


def observe(floor: float | None, stall_ms: float | None) -> Iterator[Observation]:
    if floor is not None and stall_ms is not None and not math.isnan(stall_ms):
        yield Observation("floor_ms", floor, "ms")
        if floor > 0:
            yield Observation("floor_ratio", stall_ms / floor, "")
