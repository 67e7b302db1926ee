"""How many control segments the agent takes, per source and in all; the kernel drops the rest (mtcp/linux/bpf)."""

from __future__ import annotations

import os
import socket

from mtcp.linux.bpf import admission, layout, loader
from mtcp.linux.bpf.admission import TOTAL, Class, Limit
from mtcp.linux.bpf.asm import Field
from mtcp.linux.bpf.loader import MapType, ProgramType

# Measured on one core, where an agent spends 30 us on a segment that it refuses at once and up to 0.3 ms
# on a MIGRATE that it has to ask another server about: 500 forged ones per second leave a move its time (18 ms at most
# instead of 8), with 2000 some moves take seconds. The burst of a source is a thousand connections that leave at once.
MIGRATES = Class("migrate", of_source=Limit(250, 1000), of_all=Limit(500, 2000))
# A server sends ADD_SERVERS for each connection, and a few segments for each move; all together a fifth of a core.
OTHERS = Class("other", of_source=Limit(1000, 2000), of_all=Limit(6000, 12_000))
SOURCES = 16384
"""Sources that have a bucket; beyond, the one that was quiet longest begins anew with a full one."""
_COUNTED = {"taken": TOTAL.PASSED, "over_source_limit": TOTAL.OVER_SOURCE, "over_limit": TOTAL.OVER_ALL}
_INDEX = Field(0, 4)
_SO_ATTACH_BPF = 50


class Admission:
    """The limits of one socket of type AF_PACKET, SOCK_DGRAM."""

    def __init__(self) -> None:
        """BpfError when the kernel refuses."""
        self._totals = loader.map_create(MapType.ARRAY, 4, TOTAL.SIZE, 2, "totals")
        self._sources = loader.map_create(MapType.LRU_HASH, admission.SOURCE.SIZE, 8, SOURCES, "sources")
        code = admission.program(self._sources, self._totals, MIGRATES, OTHERS)
        self._program = loader.program_load(ProgramType.SOCKET_FILTER, code, "mtcp_admission")

    def attach(self, sock: socket.socket) -> None:
        """Let through, of all packets, only the control segments that are within the limits."""
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, self._program)

    def counters(self) -> dict[str, int]:
        """Control segments that were let through, and that were dropped by each limit."""
        counted = {}
        for index, class_ in enumerate((MIGRATES, OTHERS)):
            value = loader.map_lookup(self._totals, layout.pack(4, {_INDEX: index}), TOTAL.SIZE)
            assert value is not None, "an array has all its elements"
            for what, field in _COUNTED.items():
                counted[f"{class_.name} {what}"] = layout.read(value, field)
        return counted

    def close(self) -> None:
        for fd in (self._program, self._sources, self._totals):
            os.close(fd)
