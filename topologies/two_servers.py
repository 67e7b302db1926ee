"""A client and two servers that can take each other's connections.

         client 10.0.0.100, fd00::100
            |
            | bw, rtt/4, jitter, loss
            |
           sw1   service network 10.0.0.0/24, fd00::/64
          /    \\
      bw /      \\ bw
   rtt/4/        \\ rtt/4
  10.0.0.1     10.0.0.2
  fd00::1      fd00::2
       s1 ------ s2
  10.1.0.1     10.1.0.2   control network 10.1.0.0/24, as fast as the machine is, or control_bw, control_rtt

Each service link delays packets by a quarter of the round-trip time, each way: that is the time between any two hosts
and back. Jitter and loss are on the client's link. Without options for them there is no delay, jitter or loss, nor
anything that could make one.

Each host runs the M-TCP agent, each server the file server on port 80, with the same files. As a script:

    sudo .venv/bin/python topologies/two_servers.py --rtt 40ms --bw 10mbit --loss 0.1%

or, with any other switch, host and link of Mininet: mn --custom topologies/two_servers.py --topo two_servers --link tc
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from testbed.nodes import MtcpHost
from topologies import running as common
from topologies.building import CONTROL_PORT, ServiceTopo, conditions
from topologies.running import HTTP_PORT, SERVICE_SWITCH

ADDRESSES = {"s1": "10.0.0.1", "s2": "10.0.0.2", "client": "10.0.0.100"}
ADDRESSES6 = {"s1": "fd00::1", "s2": "fd00::2", "client": "fd00::100"}
CONTROL = {"s1": "10.1.0.1", "s2": "10.1.0.2"}


class TwoServers(ServiceTopo):
    """The network drawn above."""

    def build(self, control_bw: str | float | None = None, control_rtt: str | float | None = None, **way: Any) -> None:
        """Called by Mininet's Topo. `way`: bw, rtt, jitter, loss, queue, of topologies.building.conditions."""
        switch = self.addSwitch(SERVICE_SWITCH)
        for name, address in ADDRESSES.items():
            ip6 = ADDRESSES6[name]
            if name in CONTROL:
                self.server(name, address, CONTROL[name], [ip6], ip6=f"{ip6}/64")
            else:
                self.client(name, address, ip6=f"{ip6}/64")
            self.service_link(name, switch, conditions(**way, share=1 / 4, lossy=name not in CONTROL))
        self.control_network(control_rtt, control_bw)


topos = {"two_servers": TwoServers}


class Running(common.Running):
    """The network, up and running."""

    @property
    def s1(self) -> MtcpHost:
        return self.servers[0]

    @property
    def s2(self) -> MtcpHost:
        return self.servers[1]


def running(**options: Any) -> AbstractContextManager[Running]:
    """Bring the network up; take it down at the end. `options`: see topologies.running.running."""
    return common.running(TwoServers, Running, **options)


def main() -> int:
    """Bring the network up and give Mininet's prompt."""
    return common.script(TwoServers, common.Parser("A client and two M-TCP servers, and Mininet's prompt."))


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
