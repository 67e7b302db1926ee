"""What was lost, in words, and what it held up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis import capture, segments
from analysis.connections import Connection

LONG_MS = 100.0
"""From here on a gap is a timer's: RTO and the roles' repetitions start at 200 ms."""
BEFORE_NS = 10_000_000
"""What was lost so shortly before a gap began may have caused it."""
BLOCKED_NS = 400_000_000
"""So long may a lost segment of a control connection hold up what was written to that later."""
CONTROL_CONNECTION = "control connection"
"""What is lost of the agents' own connections: all that can be told of it."""
HANDSHAKE = ("MIGRATE", "ACCEPT", CONTROL_CONNECTION)


def described(lost: pd.DataFrame, names: Mapping[str, str], control_port: int) -> pd.DataFrame:
    """`lost` (as of capture.read) with columns `kind`, and `text`: who sent what to whom.

    `names`: of hosts, by all of their addresses.
    """
    known = {capture.address(ip): name for ip, name in names.items()}
    between = (lost["sport"] == control_port) | (lost["dport"] == control_port)
    kinds = np.where(between, CONTROL_CONNECTION, segments.kinds(lost))
    ends = [f"{known.get(src, '?')}→{known.get(dst, '?')}" for src, dst in zip(lost["src"], lost["dst"], strict=True)]
    sizes = [f" ({size} bytes)" if size else "" for size in lost["payload"]]
    text = [f"{kind} {end}{size}" for kind, end, size in zip(kinds, ends, sizes, strict=True)]
    return lost.assign(kind=kinds, text=text)


def during(lost: pd.DataFrame, connection: Connection, start: int, end: int) -> pd.DataFrame:
    """What was lost of the connection and of the control connections, in [start, end) and just before."""
    number, after = capture.address(connection.client), start - BEFORE_NS
    ports = connection.port, connection.service_port
    up = (lost["src"] == number) & (lost["sport"] == ports[0]) & (lost["dport"] == ports[1])
    down = (lost["dst"] == number) & (lost["dport"] == ports[0]) & (lost["sport"] == ports[1])
    between = lost["kind"] == CONTROL_CONNECTION
    since = lost["time_ns"].where(up | down, lost["time_ns"] + BLOCKED_NS - BEFORE_NS)
    return lost[(up | down | between) & (since >= after) & (lost["time_ns"] < end)]


def cause(gap_ms: float, handshake_ms: float, lost: pd.DataFrame) -> str:
    """What a gap around a move is due to, given what was lost meanwhile (see `during`).

    `handshake_ms`: from decision to commit.
    """
    kinds = set(lost["kind"])
    if gap_ms < LONG_MS:
        return "no timer"
    if handshake_ms >= LONG_MS:
        found = [kind for kind in HANDSHAKE if kind in kinds]
        return " and ".join(found) + " lost" if found else "slow handshake, nothing lost"
    found = [kind for kind in ("data", "acknowledgement") if kind in kinds]
    return f"{found[0]} lost: RTO" if found else "RTO or pause, nothing lost"
