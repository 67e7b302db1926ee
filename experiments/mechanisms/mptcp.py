"""Kernel MPTCP: one connection over all paths that lead to its server.

The client makes a subflow to each second address of the server, where the topology has one (ServiceTopo's
second_addresses), and both kernels spread data over them by their own scheduler, from the beginning. There is no policy
and no other server: a server that is overloaded, attacked or dead is so on all paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from experiments.mechanisms.base import Mechanism
from experiments.plan import Trial
from experiments.stage import Stage
from testbed import mptcp


class Mptcp(Mechanism):
    """See above."""

    name = "mptcp"
    summary = "kernel MPTCP: all paths to the same server"
    connect = "mptcp"
    sysctls: ClassVar[Mapping[str, str]] = mptcp.SYSCTLS

    def unsupported(self, trial: Trial) -> str:
        return "" if Path("/proc/sys/net/mptcp").exists() else "this kernel has no MPTCP (CONFIG_MPTCP)"

    def prepare(self, stage: Stage) -> None:
        network = stage.network
        network.pool.serve(network.servers, "files", "--mptcp", "--port", 80, "--directory", network.directory)
        more = network.net.topo.second_addresses
        for server in network.servers:
            mptcp.set_paths(server, [more[server.name]] if server.name in more else [])
        mptcp.set_paths(network.client, accept=len(more))
        stage.run.metadata["facts"]["second_addresses"] = dict(more)
