"""Multipath TCP of the kernel: sockets, and which paths its path manager makes.

A connection has the path on which it was made. The server announces its other addresses (ADD_ADDR), and a client that
accepts that makes a subflow to each from the address that its routes say (MP_JOIN). All end at the same server: what
lacks there, lacks on every path.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import mtcp
from testbed.errors import TestbedError
from testbed.processes import checked

IPPROTO_MPTCP = 262
SYSCTLS: Mapping[str, str] = {"net.mptcp.enabled": "1"}
"""Of hosts that use it; those of the testbed have it switched off."""


def mptcp_socket(family: socket.AddressFamily) -> socket.socket:
    """A socket of MPTCP; TestbedError where there is none."""
    try:
        return socket.socket(family, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as error:
        if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOPROTOOPT):
            raise
        why = f"no MPTCP here ({error.strerror}): it needs a kernel with CONFIG_MPTCP, and sysctl net.mptcp.enabled=1"
        raise TestbedError(why) from error


def listen(port: int) -> mtcp.Listener:
    """Listen on all addresses of IPv4; clients without MPTCP get plain TCP. TestbedError, OSError."""
    sock = mptcp_socket(socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", port))
        sock.listen(128)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return mtcp.Listener(sock, None, 0, 0)


def set_paths(host: Any, announced: Sequence[str] = (), *, accept: int = 0, backup: bool = False) -> None:
    """Tell the path manager of the Mininet `host` which paths to make, in place of what it was told before.

    `announced`: addresses of its own that its peers are told of; as `backup`, to be used only when no other path
    works. `accept`: how many addresses of a peer it makes subflows to. CommandError when the kernel does not want that.
    """
    subflows = str(max(len(announced), accept))
    checked(host, "ip", "mptcp", "endpoint", "flush")
    checked(host, "ip", "mptcp", "limits", "set", "subflows", subflows, "add_addr_accepted", str(accept))
    for address in announced:
        kind = ["signal", "backup"] if backup else ["signal"]
        checked(host, "ip", "mptcp", "endpoint", "add", address, *kind)
