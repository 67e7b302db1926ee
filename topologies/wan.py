"""A client far from two servers that are near each other; or the reverse, servers that are far from each other.

                    client 10.0.0.100
                       |
                       | bw, queue, jitter, loss;  rtt/2 - server_rtt/4    (--reverse: rtt/4)
                       |
                       r   a router, 254 of each network
                     /   \\
     server_rtt/4   /     \\   server_rtt/4        (--reverse: s1's rtt/4, s2's server_rtt/2 - rtt/4)
               bw  /       \\  bw
           10.0.1.1         10.0.2.1
             s1 ------------- s2
           10.1.0.1         10.1.0.2   control network 10.1.0.0/24, server_rtt/2

The servers are in networks of their own. Round-trip times between client and s1 (rtt) and between s1 and s2
(server_rtt, also on the control network) are as asked for; between client and s2 it is rtt as well. With --reverse the
client is at the site of s1, and s2 is as far from the one as from the other: server_rtt.

Each host but the router runs the M-TCP agent, each server the file server on port 80, with the same files. As a script:

    sudo .venv/bin/python topologies/wan.py --rtt 120ms --server-rtt 1ms
    sudo .venv/bin/python topologies/wan.py --reverse --rtt 2ms --server-rtt 60ms

or, with any other switch, host and link of Mininet: mn --custom topologies/wan.py --topo wan,rtt=40ms --link tc
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from testbed import units
from testbed.links import LinkError
from topologies import running as common
from topologies.building import ServiceTopo, conditions
from topologies.running import Running

FAR, NEAR = "80ms", "2ms"


class Wan(ServiceTopo):
    """The network drawn above."""

    def build(
        self,
        rtt: str | float | None = None,
        server_rtt: str | float | None = None,
        jitter: str | float | None = None,
        loss: str | float | None = None,
        reverse: bool = False,
        **way: Any,
    ) -> None:
        """Called by Mininet's Topo. `rtt` and `server_rtt`: 80 ms and 2 ms, with `reverse` 2 ms and 80 ms.

        `way`: bw, queue, of topologies.building.conditions, as `jitter` and `loss`.
        """
        client_ms = units.milliseconds(rtt if rtt is not None else NEAR if reverse else FAR)
        server_ms = units.milliseconds(server_rtt if server_rtt is not None else FAR if reverse else NEAR)
        near, far = (client_ms, server_ms) if reverse else (server_ms, client_ms)
        if near > 2 * far:
            raise LinkError(f"round-trip times of {near:g} and {far:g} ms: the first is longer than twice the second")
        one_way = {
            "client": near / 4,
            "s1": near / 4,
            "s2": near / 4,
            "s2" if reverse else "client": far / 2 - near / 4,
        }
        router = self.router("r")
        sites = (self._client(), self._server(1), self._server(2))
        for number, name in enumerate(sites):
            disturbed: dict[str, Any] = {"jitter": jitter, "loss": loss} if name == "client" else {}
            ends = conditions(**way, **disturbed, rtt=one_way[name], share=1)
            self.service_link(name, router, ends, params2={"ip": f"10.0.{number}.254/24"})
        self.control_network(rtt=server_ms)

    def _client(self) -> str:
        return self.client("client", "10.0.0.100", defaultRoute="via 10.0.0.254")

    def _server(self, number: int) -> str:
        route = f"via 10.0.{number}.254"
        return self.server(f"s{number}", f"10.0.{number}.1", f"10.1.0.{number}", defaultRoute=route)


topos = {"wan": Wan}


def running(**options: Any) -> AbstractContextManager[Running]:
    """Bring the network up; take it down at the end. `options`: see topologies.running.running."""
    return common.running(Wan, Running, **options)


def main() -> int:
    """Bring the network up and give Mininet's prompt."""
    parser = common.Parser(
        "Client and servers far from each other, and Mininet's prompt.", rtt=f"{FAR}; reverse: {NEAR}"
    )
    what = f"round-trip time between the servers ({NEAR}; reverse: {FAR})"
    parser.add_argument("--server-rtt", type=common.unit(units.milliseconds), metavar="TIME", help=what)
    parser.add_argument("--reverse", action="store_true", help="the client beside s1, s2 far from both")
    return common.script(Wan, parser)


if __name__ == "__main__":
    sys.exit(main())
