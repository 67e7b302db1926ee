"""What topologies are built from: hosts that have a part to play, routers, and links with conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mininet.topo import Topo

from testbed import units
from testbed.links import Conditions, LinkError
from testbed.nodes import Router
from testbed.pool import Server

CONTROL_PORT = 7000
CONTROL_SWITCH = "sw2"


class ServiceTopo(Topo):  # type: ignore[misc, unused-ignore]
    """A Mininet Topo that knows which of its hosts are clients and servers, and which links bandwidths are for."""

    def __init__(self, *args: Any, **params: Any) -> None:
        """The parameters are those of `build`. LinkError for conditions that no link can have."""
        self.clients: dict[str, str] = {}
        """Addresses by name."""
        self.pool: list[Server] = []
        self.others: dict[str, str] = {}
        """Hosts without agents: addresses by name."""
        self.second_addresses: dict[str, str] = {}
        """Of servers to which there is a second path: their addresses there, by name."""
        self.service_links: list[tuple[str, str]] = []
        """Between clients and servers, with a bandwidth if any has one."""
        super().__init__(*args, **params)

    def client(self, name: str, address: str, **params: Any) -> str:
        """Add a client; `address` is in a /24."""
        self.clients[name] = address
        return str(self.addHost(name, ip=f"{address}/24", **params))

    def server(self, name: str, address: str, control: str, more: Sequence[str] = (), **params: Any) -> str:
        """Add a server; `control`: its address in the control network; `more`: addresses that are set elsewhere."""
        self.pool.append(Server(name, address, f"{control}:{CONTROL_PORT}", list(more)))
        return str(self.addHost(name, ip=f"{address}/24", **params))

    def other(self, name: str, address: str, **params: Any) -> str:
        """Add a host that takes no part in moves."""
        self.others[name] = address
        return str(self.addHost(name, ip=f"{address}/24", **params))

    def router(self, name: str, *discarded: str) -> str:
        """Add a router, which discards what is for the networks `discarded`; its addresses come with its links."""
        return str(self.addHost(name, cls=Router, ip=None, discarded=discarded))

    def service_link(self, node1: str, node2: str, conditions: Mapping[str, Any], **params: Any) -> None:
        """A link that clients' data takes."""
        self.service_links.append((node1, node2))
        self.link(node1, node2, conditions, **params)

    def link(self, node1: str, node2: str, conditions: Mapping[str, Any], **params: Any) -> None:
        """A link of these `conditions` (see `conditions`); addresses and other parameters as in `addLink`."""
        try:
            Conditions().changed(conditions)
        except LinkError as error:
            raise LinkError(f"link {node1}-{node2}: {error}") from None
        self.addLink(node1, node2, **conditions, **params)

    def control_network(self, rtt: str | float | None = None, bw: str | float | None = None) -> None:
        """Connect the servers' control addresses: two by a link, more by a switch.

        `rtt`: between two of them; `bw`: of each link, Mbit/s.
        """
        ways = conditions(bw, rtt, share=1 / 2 if len(self.pool) == 2 else 1 / 4)
        addresses = {server.name: {"ip": f"{server.control.partition(':')[0]}/24"} for server in self.pool}
        if len(self.pool) == 2:
            (name1, address1), (name2, address2) = addresses.items()
            self.link(name1, name2, ways, params1=address1, params2=address2)
            return
        switch = self.addSwitch(CONTROL_SWITCH)
        for name, address in addresses.items():
            self.link(name, switch, ways, params1=address)


def conditions(
    bw: str | float | None = None,
    rtt: str | float | None = None,
    jitter: str | float | None = None,
    loss: str | float | None = None,
    queue: int | None = None,
    *,
    share: float,
    lossy: bool = True,
) -> dict[str, Any]:
    """Parameters of a link on which a packet spends `share` of the round-trip time, each way; ValueError.

    The others are those of the link itself, in units as people write them (testbed.units); `lossy`: whether jitter and
    loss are on this link. What is None is not emulated, and cannot be changed later; but where one of `rtt`, `jitter`
    and `loss` is given, all of them can be changed later. In a form that Mininet's own TCLink understands, too.
    """
    found: dict[str, Any] = {}
    if bw is not None:
        found["bw"] = units.mbit(bw)
    if any(value is not None for value in (rtt, jitter, loss)):
        found["delay"] = f"{units.milliseconds(rtt or 0) * share:g}ms"
    if lossy and jitter is not None:
        found["jitter"] = f"{units.milliseconds(jitter):g}ms"
    if lossy and loss is not None:
        found["loss"] = units.percent(loss)
    if queue is not None:
        found["queue"] = int(queue)
    return found
