"""A client and two servers, and attackers behind a link of their own.

         client 10.0.0.100
            |
            | bw, queue, rtt/2, jitter, loss
            |                         attack_bw
           sw1  10.0.0.0/24 ------------------------- r ------ sw3  10.9.0.0/24
          /    \\                               router, 254     |       |
         /      \\  bw, queue each                          10.9.0.1   10.9.0.2
  10.0.0.1     10.0.0.2                                   attacker   attacker2  ...
       s1 ------ s2
  10.1.0.1     10.1.0.2   control network 10.1.0.0/24

The client's link delays packets by half of the round-trip time, each way; servers and attackers are near each other:
so a flood passes kernel queues only, and no delay line, which carries fewer packets.
Sources that attackers forge are to be of 10.9.128.0/17: the router discards what is sent there, so that nobody answers.

The client and both servers run the M-TCP agent, each server the file server on port 80, with the same files. As a
script:

    sudo .venv/bin/python topologies/dos.py --attackers 2 --attack-bw 1gbit

or, with any other switch, host and link of Mininet: mn --custom topologies/dos.py --topo dos,attackers=2
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from testbed import units
from topologies import running as common
from topologies.building import ServiceTopo, conditions
from topologies.running import SERVICE_SWITCH, Running

CROWD = "10.9.0.0/16"
"""Network of the attackers and of FORGED."""
FORGED = "10.9.128.0/17"
"""Network of the sources that attackers forge."""
MOST = 99

GREETING = """
Attack s1, see that it suffers, and leave it:

    attacker python -m testbed.attack syn 10.0.0.1:80 --rate 20000 --seconds 60 --sources 10.9.128.0/17 &
    s1 ss -tn state syn-recv | wc -l
    client mtcp migrate --to s2
"""


class Dos(ServiceTopo):
    """The network drawn above."""

    def build(self, attackers: int = 1, attack_bw: str | float | None = None, **way: Any) -> None:
        """Called by Mininet's Topo. `attack_bw`: Mbit/s of the attackers' link; `way`: see `conditions`."""
        service, crowd = self.addSwitch(SERVICE_SWITCH), self.addSwitch("sw3")
        back = {"defaultRoute": "via 10.0.0.254"}
        self.service_link(self.client("client", "10.0.0.100", **back), service, conditions(**way, share=1 / 2))
        near = {name: way[name] for name in ("bw", "queue") if name in way}
        for number in (1, 2):
            server = self.server(f"s{number}", f"10.0.0.{number}", f"10.1.0.{number}", **back)
            self.service_link(server, service, conditions(**near, share=0))
        router = self.router("r", FORGED)
        self.link(service, router, conditions(attack_bw, share=0), params2={"ip": "10.0.0.254/24"})
        self.link(crowd, router, {}, params2={"ip": "10.9.0.254/24"})
        for number in range(1, int(attackers) + 1):
            name = f"attacker{number if number > 1 else ''}"
            self.link(self.other(name, f"10.9.0.{number}", defaultRoute="via 10.9.0.254"), crowd, {})
        self.control_network()


topos = {"dos": Dos}


def running(**options: Any) -> AbstractContextManager[Running]:
    """Bring the network up; take it down at the end. `options`: see topologies.running.running."""
    return common.running(Dos, Running, **options)


def main() -> int:
    """Bring the network up and give Mininet's prompt."""
    parser = common.Parser("Attackers of one of two M-TCP servers, and Mininet's prompt.")
    parser.add_argument("--attackers", type=common.count(MOST), default=1, metavar="N", help="how many (1)")
    what = "bandwidth of the attackers' link (as fast as the machine is)"
    parser.add_argument("--attack-bw", type=common.unit(units.mbit), metavar="RATE", help=what)
    return common.script(Dos, parser, GREETING)


if __name__ == "__main__":
    sys.exit(main())
