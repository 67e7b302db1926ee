"""A pool of servers that can take each other's connections, and several clients.

     client 10.0.0.101    client2 10.0.0.102   ...
          |                    |
          | bw, rtt/4,         | bw, rtt/4,
          | jitter, loss       | jitter, loss
          +--------  sw1  -----+   service network 10.0.0.0/24
          |           |        |
          |           |        |  bw, rtt/4 each
          |           |        |
       10.0.0.1    10.0.0.2    10.0.0.3
         s1          s2          s3   ...
       10.1.0.1    10.1.0.2    10.1.0.3
          |           |        |
          +--------  sw2  -----+   control network 10.1.0.0/24, as fast as the machine is

Each service link delays packets by a quarter of the round-trip time, each way: that is the time between any two hosts
and back. Jitter and loss are on the clients' links.

Each host runs the M-TCP agent, each server the file server on port 80, with the same files. As a script:

    sudo .venv/bin/python topologies/pool.py --servers 4 --clients 2

or, with any other switch, host and link of Mininet: mn --custom topologies/pool.py --topo pool,4,2
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from topologies import running as common
from topologies.building import CONTROL_PORT, ServiceTopo, conditions
from topologies.running import SERVICE_SWITCH, Running

MOST = 99
"""Hosts of a kind: those that the addresses have room for."""


class PoolTopo(ServiceTopo):
    """The network drawn above."""

    def build(self, n: int = 3, m: int = 1, **way: Any) -> None:
        """Called by Mininet's Topo: `n` servers, `m` clients. `way`: see topologies.building.conditions."""
        switch = self.addSwitch(SERVICE_SWITCH)
        for i in range(1, int(m) + 1):
            client = self.client(f"client{i if i > 1 else ''}", f"10.0.0.{100 + i}")
            self.service_link(client, switch, conditions(**way, share=1 / 4))
        for i in range(1, int(n) + 1):
            server = self.server(f"s{i}", f"10.0.0.{i}", f"10.1.0.{i}")
            self.service_link(server, switch, conditions(**way, share=1 / 4, lossy=False))
        self.control_network()


topos = {"pool": PoolTopo}


def running(n: int = 3, m: int = 1, **options: Any) -> AbstractContextManager[Running]:
    """Bring `n` servers and `m` clients up; take them down at the end. `options`: see topologies.running.running."""
    return common.running(PoolTopo, Running, n=n, m=m, **options)


def main() -> int:
    """Bring the network up and give Mininet's prompt."""
    parser = common.Parser("A pool of M-TCP servers, clients, and Mininet's prompt.")
    parser.add_argument("--servers", dest="n", type=common.count(MOST), default=3, metavar="N", help="how many (3)")
    parser.add_argument("--clients", dest="m", type=common.count(MOST), default=1, metavar="M", help="how many (1)")
    return common.script(PoolTopo, parser)


__all__ = ["CONTROL_PORT", "PoolTopo", "running", "topos"]

if __name__ == "__main__":
    sys.exit(main())
