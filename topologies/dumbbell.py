"""A client and two servers with a path of its own to each; one of the paths can be congested.

                     x1 10.0.1.101     x2 10.0.1.102      hosts of the cross traffic
                       |                 |
                      sw1 ------------- sw2 ------ s1 10.0.1.1, 10.1.0.1
                       |   upper path                |
                       |   bw, queue, rtt/2          |
                       |   jitter, loss              |
    client ----------- r   a router                  |   control network 10.1.0.0/24
  10.0.0.100           |                             |
                       |   lower path                |
                       |   bw, queue, rtt/2          |
                       |   jitter, loss              |
                       +------------------------- s2 10.0.2.1, 10.1.0.2

Each path delays packets by half of the round-trip time, each way; the links without a name for their conditions are as
fast as the machine is. With --second-path s1 can be reached by the lower path, too, at 10.0.2.11: a switch joins it and
s2 at the end of that. Cross traffic from x2 to x1 goes the way that downloads from s1 go: with --cross-bw it is UDP
of that rate, for ten minutes.

The client and both servers run the M-TCP agent, each server the file server on port 80, with the same files. As a
script:

    sudo .venv/bin/python topologies/dumbbell.py --bw 50mbit --rtt 20ms --cross-bw 45mbit

or, with any other switch, host and link of Mininet: mn --custom topologies/dumbbell.py --topo dumbbell,bw=50 --link tc
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from testbed import units
from testbed.cross_traffic import CrossTraffic
from testbed.processes import checked
from topologies import running as common
from topologies.building import ServiceTopo, conditions

GREETING = """
Congest the path to s1, see what is left there, and leave it:

    x1 iperf3 -s -D
    x2 iperf3 -c x1 -u -b 95M -t 600 > /dev/null &
    client mtcp migrate --to s2
"""


SECOND_TABLE = "100"
LOWER_ROUTER, SECOND_ADDRESS = "10.0.2.254", "10.0.2.11"


class Dumbbell(ServiceTopo):
    """The network drawn above."""

    def build(self, cross_bw: str | float | None = None, second_path: bool = False, **way: Any) -> None:
        """Called by Mininet's Topo. `cross_bw`: Mbit/s of the cross traffic that `running` starts, for ten minutes.

        `second_path`: whether the lower path leads to s1, too; as in `running`, which sets the routes that this needs.
        `way`: of each path; see topologies.building.conditions.
        """
        self.cross_mbit = None if cross_bw is None else units.mbit(cross_bw)
        router = self.router("r")
        left, right = self.addSwitch("sw1"), self.addSwitch("sw2")
        path = conditions(**way, share=1 / 2)
        self.link(self.client("client", "10.0.0.100", defaultRoute="via 10.0.0.254"), router, {}, params2=_ip(0))
        self.link(left, router, {}, params2=_ip(1))
        self.service_link(left, right, path)
        self.link(self.server("s1", "10.0.1.1", "10.1.0.1", defaultRoute="via 10.0.1.254"), right, {})
        end = s2 = self.server("s2", "10.0.2.1", "10.1.0.2", defaultRoute=f"via {LOWER_ROUTER}")
        if second_path:
            self.second_addresses = {"s1": SECOND_ADDRESS}
            end = self.addSwitch("sw3")
            self.link(s2, end, {})
            self.link("s1", end, {}, params1={"ip": f"{SECOND_ADDRESS}/24"})
        self.service_link(end, router, path, params2=_ip(2))
        for name, address, switch in (("x1", "10.0.1.101", left), ("x2", "10.0.1.102", right)):
            self.link(self.other(name, address, defaultRoute="via 10.0.1.254"), switch, {})
        self.control_network()


def _ip(network: int) -> dict[str, str]:
    """Of the router's interface in a network."""
    return {"ip": f"10.0.{network}.254/24"}


topos = {"dumbbell": Dumbbell}


class Running(common.Running):
    """The network, up and running."""

    def begin(self) -> None:
        """Set the routes of the second path, start the cross traffic."""
        for name, address in self.net.topo.second_addresses.items():
            # Or its answers would leave by the upper path.
            checked(self.net[name], "ip", "rule", "add", "from", address, "lookup", SECOND_TABLE)
            checked(self.net[name], "ip", "route", "add", "default", "via", LOWER_ROUTER, "table", SECOND_TABLE)
        if self.net.topo.cross_mbit:
            CrossTraffic(self.net["x2"], self.net["x1"], self.net.topo.cross_mbit, udp=True, logs=self.logs)


def running(**options: Any) -> AbstractContextManager[Running]:
    """Bring the network up; take it down at the end. `options`: see topologies.running.running."""
    return common.running(Dumbbell, Running, **options)


def main() -> int:
    """Bring the network up and give Mininet's prompt."""
    parser = common.Parser("Two paths to two M-TCP servers, and Mininet's prompt.")
    what = "cross traffic on the path to s1, UDP, for ten minutes (none)"
    parser.add_argument("--cross-bw", type=common.unit(units.mbit), metavar="RATE", help=what)
    parser.add_argument("--second-path", action="store_true", help="let the lower path lead to s1, too")
    return common.script(Dumbbell, parser, GREETING, Running)


if __name__ == "__main__":
    sys.exit(main())
