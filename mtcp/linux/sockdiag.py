"""Which TCP sockets there are, by sock_diag(7)."""

from __future__ import annotations

import socket

from pyroute2 import DiagSocket

from mtcp.address import Endpoint, FourTuple


def connections() -> set[FourTuple]:
    """The IPv4 TCP connections of this network namespace, those in TIME_WAIT too.

    Blocks, and runs an event loop of its own: call it in a thread.
    """
    with DiagSocket() as diag:
        diag.bind()
        return {
            FourTuple(
                Endpoint(message["idiag_src"], message["idiag_sport"]),
                Endpoint(message["idiag_dst"], message["idiag_dport"]),
            )
            for message in diag.get_sock_stats(family=socket.AF_INET)
        }
