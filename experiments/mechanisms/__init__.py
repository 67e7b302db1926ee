"""Mechanisms by name: what is compared."""

from __future__ import annotations

from experiments.mechanisms.base import Mechanism


def named(name: str) -> Mechanism:
    """The mechanism; KeyError."""
    return all_mechanisms()[name]()


def all_mechanisms() -> dict[str, type[Mechanism]]:
    """All there are, by name, in the order in which reports show them."""
    from experiments.mechanisms.mptcp import Mptcp
    from experiments.mechanisms.mtcp import Mtcp
    from experiments.mechanisms.quic import Quic
    from experiments.mechanisms.reconnect import Reconnect
    from experiments.mechanisms.tcp import Tcp

    return {kind.name: kind for kind in (Mtcp, Tcp, Reconnect, Mptcp, Quic)}
