"""Where to go, when several servers are possible: the same for all policies."""

from __future__ import annotations

from mtcp.address import Endpoint
from mtcp.policy.base import Known, View

FULL_LOAD = 1.0
"""Seconds of round-trip time to which a server's full load is equal: nobody would rather wait for an overloaded one
than for one on another continent."""


def cost(known: Known) -> float | None:
    """Seconds that a server is away, its load included: the lower the better; None when nothing is known of it."""
    if known.rtt is None and known.load is None:
        return None
    return (known.rtt or 0.0) + FULL_LOAD * (known.load or 0.0)


def choose(view: View, among: tuple[Endpoint, ...] | None = None) -> Endpoint | None:
    """The best of the other servers, or `among` these; connections spread over those that are equally good.

    One of which nothing is known is taken for as near as the nearest, and idle. None: there is no other.
    """
    costs = {server: cost(view.known(server)) for server in (view.others if among is None else among)}
    nearest = min((rtt for server in costs if (rtt := view.known(server).rtt) is not None), default=0.0)
    assumed = {server: nearest if known is None else known for server, known in costs.items()}
    equal = [server for server, each in assumed.items() if each == min(assumed.values())]
    return equal[view.received % len(equal)] if equal else None
