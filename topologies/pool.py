"""A pool of servers that can take each other's connections, and several clients.

     client 10.0.0.101    client2 10.0.0.102   ...
          |                    |
       bw |                    | bw
          +--------  sw1  -----+   service network 10.0.0.0/24
          |           |        |
       bw |        bw |        | bw
          |           |        |
       10.0.0.1    10.0.0.2    10.0.0.3
         s1          s2          s3   ...
       10.1.0.1    10.1.0.2    10.1.0.3
          |           |        |
          +--------  sw2  -----+   control network 10.1.0.0/24

Each host runs the M-TCP agent, each server the file server on port 80, with the same files. As a script:

    sudo .venv/bin/python topologies/pool.py --servers 4 --clients 2

or, with any other switch, host and link of Mininet: mn --custom topologies/pool.py --topo pool,4,2
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

from mininet.topo import Topo

from testbed.pool import Server
from topologies import running as common
from topologies.running import SERVICE_SWITCH, Running

CONTROL_SWITCH = "sw2"
CONTROL_PORT = 7000
MOST = 99
"""Hosts of a kind: those that the addresses have room for."""

GREETING = """
{everybody} are up. Start a download from s1, see its connection, let it go round while it runs:

    client curl -o /dev/null http://s1/big &
    client mtcp ls
    client for s in s2 s3 s1; do mtcp migrate --to $s; done

Files on all servers: {{files}}.  Logs: {{logs}}.  Ctrl-D leaves.
"""


def servers(count: int) -> list[Server]:
    """The pool's servers: s1, s2 …"""
    return [Server(f"s{i}", f"10.0.0.{i}", f"10.1.0.{i}:{CONTROL_PORT}") for i in range(1, count + 1)]


def clients(count: int) -> dict[str, str]:
    """The clients' addresses by name: client, client2, client3 …"""
    return {f"client{i if i > 1 else ''}": f"10.0.0.{100 + i}" for i in range(1, count + 1)}


class PoolTopo(Topo):  # type: ignore[misc, unused-ignore]
    """The network drawn above. `bw`: Mbit/s of each service link and direction; None: unshaped."""

    def build(self, n: int = 3, m: int = 1, bw: float | None = None, **_params: Any) -> None:
        """Called by Mininet's Topo: `n` servers, `m` clients."""
        service, control = self.addSwitch(SERVICE_SWITCH), self.addSwitch(CONTROL_SWITCH)
        shape = {} if bw is None else {"bw": float(bw)}
        for name, address in [*clients(int(m)).items(), *((s.name, s.service) for s in servers(int(n)))]:
            self.addHost(name, ip=f"{address}/24")
            self.addLink(name, service, **shape)
        for server in servers(int(n)):
            self.addLink(server.name, control, params1={"ip": f"{server.control.partition(':')[0]}/24"})


topos = {"pool": PoolTopo}


@contextlib.contextmanager
def running(n: int = 3, m: int = 1, *, bw: float | None = None, **settings: Any) -> Iterator[Running]:
    """Bring `n` servers and `m` clients up; take them down at the end.

    `bw`: Mbit/s of the service links; `settings`: those of topologies.running.bring_up. TestbedError when something
    does not come up.
    """
    with common.bring_up(
        Running, PoolTopo(n=n, m=m, bw=math.inf if bw is None else bw), clients(m), servers(n), **settings
    ) as network:
        yield network


def _count(text: str) -> int:
    if not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {MOST}")
    return int(text)


def main() -> int:
    """Bring the network up and give Mininet's prompt."""
    parser = common.parser("A pool of M-TCP servers, clients, and Mininet's prompt.")
    parser.add_argument("--servers", type=_count, default=3, metavar="N", help="how many (3)")
    parser.add_argument("--clients", type=_count, default=1, metavar="M", help="how many (1)")
    options = parser.parse_args()
    *others, last = [*clients(options.clients), *(server.name for server in servers(options.servers))]
    greeting = GREETING.format(everybody=f"{', '.join(others)} and {last}")

    def start(o: argparse.Namespace) -> contextlib.AbstractContextManager[Running]:
        return running(o.servers, o.clients, bw=o.bw or None, agents=not o.no_agents, logs=o.logs)

    return common.prompt(options, start, greeting)


if __name__ == "__main__":
    sys.exit(main())
