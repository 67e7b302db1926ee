"""The agent's privileges: what it needs while it runs, and how it gives the others up (capabilities(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from enum import IntEnum

from mtcp.errors import MtcpError


class Capability(IntEnum):
    """Those that the agent keeps, by their numbers in linux/capability.h."""

    NET_BIND_SERVICE = 10
    """A connection that comes here is bound to the port of its service, 80 perhaps."""
    NET_ADMIN = 12
    """TCP_REPAIR, and the sockets of other users' applications."""
    NET_RAW = 13
    """Control segments."""
    BPF = 39
    """The maps and programs of the datapath."""


_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_VERSION_3 = 0x20080522
_LAST = 63
_libc = ctypes.CDLL(None, use_errno=True)


def drop() -> None:
    """Keep the capabilities above and no others, in this process and for any that it may start.

    They must be given up before other threads exist. MtcpError when one of those kept is missing.
    """
    needed = sum(1 << capability for capability in Capability)
    permitted = _permitted()
    if missing := [c.name for c in Capability if not permitted >> c & 1]:
        raise MtcpError(f"the agent lacks the capabilities {', '.join(missing)}: run it as root")
    for number in range(_LAST + 1):
        # EINVAL: the kernel has no such capability. EPERM: without CAP_SETPCAP the bounding set stays as it is.
        if not needed >> number & 1:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    low, high = needed & 0xFFFFFFFF, needed >> 32
    header = struct.pack("=Ii", _VERSION_3, 0)
    data = struct.pack("=6I", low, low, 0, high, high, 0)  # effective, permitted, inheritable
    if _libc.capset(header, data):
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"PR_SET_NO_NEW_PRIVS: {os.strerror(ctypes.get_errno())}")


def _permitted() -> int:
    header, data = struct.pack("=Ii", _VERSION_3, 0), ctypes.create_string_buffer(24)
    if _libc.capget(header, data):
        raise OSError(ctypes.get_errno(), f"capget: {os.strerror(ctypes.get_errno())}")
    _, low, _, _, high, _ = struct.unpack("=6I", data.raw)
    return int(low | high << 32)
