"""A client and two servers that can take each other's connections.

         client 10.0.0.100, fd00::100
            |
            | bw
            |
           sw1   service network 10.0.0.0/24, fd00::/64
          /    \\
      bw /      \\ bw
        /        \\
  10.0.0.1     10.0.0.2
  fd00::1      fd00::2
       s1 ------ s2
  10.1.0.1     10.1.0.2   control network 10.1.0.0/24

Each host runs the M-TCP agent, each server the file server on port 80, with the same files. As a script:

    sudo .venv/bin/python topologies/two_servers.py --bw 10

or, with any other switch, host and link of Mininet: mn --custom topologies/two_servers.py --topo two_servers
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

from mininet.topo import Topo

from testbed.nodes import MtcpHost
from testbed.pool import Server
from topologies import running as common
from topologies.running import HTTP_PORT, SERVICE_SWITCH

ADDRESSES = {"s1": "10.0.0.1", "s2": "10.0.0.2", "client": "10.0.0.100"}
ADDRESSES6 = {"s1": "fd00::1", "s2": "fd00::2", "client": "fd00::100"}
CONTROL = {"s1": "10.1.0.1", "s2": "10.1.0.2"}
CONTROL_PORT = 7000

GREETING = """
client, s1 and s2 are up. Start a download from s1, see its connection, move it to s2 while it runs:

    client curl -o /dev/null http://s1/big &
    client mtcp ls
    client mtcp migrate --to s2

Files on both servers: {files}.  Logs: {logs}.  Ctrl-D leaves.
"""


class TwoServers(Topo):  # type: ignore[misc, unused-ignore]
    """The network drawn above. `bw`: Mbit/s of each service link and direction; None: unshaped."""

    def build(self, bw: float | None = None, **_params: Any) -> None:
        """Called by Mininet's Topo."""
        switch = self.addSwitch(SERVICE_SWITCH)
        shape = {} if bw is None else {"bw": float(bw)}
        for name, address in ADDRESSES.items():
            self.addHost(name, ip=f"{address}/24", ip6=f"{ADDRESSES6[name]}/64")
            self.addLink(name, switch, **shape)
        control = {f"params{i}": {"ip": f"{CONTROL[name]}/24"} for i, name in ((1, "s1"), (2, "s2"))}
        self.addLink("s1", "s2", **control)


topos = {"two_servers": TwoServers}


class Running(common.Running):
    """The network, up and running."""

    @property
    def s1(self) -> MtcpHost:
        return self.servers[0]

    @property
    def s2(self) -> MtcpHost:
        return self.servers[1]


@contextlib.contextmanager
def running(*, bw: float | None = None, **settings: Any) -> Iterator[Running]:
    """Bring the network up; take it down at the end.

    `bw`: Mbit/s of the service links; `settings`: those of topologies.running.bring_up. TestbedError when something
    does not come up.
    """
    servers = [Server(name, ADDRESSES[name], f"{CONTROL[name]}:{CONTROL_PORT}", [ADDRESSES6[name]]) for name in CONTROL]
    clients = {"client": ADDRESSES["client"]}
    with common.bring_up(
        Running, TwoServers(bw=math.inf if bw is None else bw), clients, servers, **settings
    ) as network:
        yield network


def main() -> int:
    """Bring the network up and give Mininet's prompt."""
    options = common.parser("A client and two M-TCP servers, and Mininet's prompt.").parse_args()
    start = lambda o: running(bw=o.bw or None, agents=not o.no_agents, logs=o.logs)  # noqa: E731
    return common.prompt(options, start, GREETING)


__all__ = [
    "ADDRESSES",
    "ADDRESSES6",
    "CONTROL",
    "CONTROL_PORT",
    "HTTP_PORT",
    "Running",
    "TwoServers",
    "running",
    "topos",
]

if __name__ == "__main__":
    sys.exit(main())
