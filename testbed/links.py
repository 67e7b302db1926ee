"""Links with a bandwidth. The bottleneck is at the switch, never on the sending host.

A queueing discipline on the sending host would not be a bottleneck to TCP at all: TCP sees its own queue fill
and stops (TCP Small Queues). So both directions are shaped at the switch's end, by a token bucket:

    host ---------------- port of the switch -- bridge
         <-- TBF ---------                              on the port itself
         ----------------> redirected to an ifb, TBF    before the bridge sees the packet

TBF splits super-packets (GSO), so the hosts' offloads can stay on.
"""

from __future__ import annotations

from typing import Any

from mininet.link import Intf, Link
from mininet.node import Switch

from testbed.errors import TestbedError
from testbed.processes import checked

QUEUE = 250
"""Buffer of a bottleneck in full-sized packets, unless told otherwise: 30 ms at 100 Mbit/s."""

_FRAME = 1514  # bytes
_MININET = {
    "port1",
    "port2",
    "intfName1",
    "intfName2",
    "addr1",
    "addr2",
    "intf",
    "cls1",
    "cls2",
    "params1",
    "params2",
}


class LinkError(TestbedError):
    """The link cannot be what was asked for."""


class ShapedLink(Link):
    """A link of `bw` Mbit/s in each direction; None: as fast as the machine is."""

    def __init__(self, node1: Any, node2: Any, bw: float | None = None, queue: int = QUEUE, **params: Any) -> None:
        """Connect two nodes. `queue`: packets a bottleneck holds. LinkError for what cannot be emulated."""
        unknown = params.keys() - _MININET
        if unknown:
            raise LinkError(f"link {node1}-{node2}: cannot emulate {', '.join(sorted(unknown))}")
        if bw is not None and not (isinstance(node1, Switch) or isinstance(node2, Switch)):
            raise LinkError(f"link {node1}-{node2}: a bandwidth needs a switch at one end at least")
        super().__init__(node1, node2, **params)
        self.bw: float | None = None
        self.queue = queue
        self._shaped: list[tuple[Any, str]] = []  # (node, interface) with a token bucket
        self._redirected: Intf | None = None
        self.set_bw(bw)

    def set_bw(self, bw: float | None) -> None:
        """Change the bandwidth to `bw` Mbit/s each way, at once, also under traffic; None: unshaped."""
        if bw is None:
            self._unshape()
        else:
            if not 0.01 <= bw <= 100_000:
                raise LinkError(f"{self}: {bw} Mbit/s is not a bandwidth")
            self._shaped = self._shaped or self._bottlenecks()
            # A bucket of at least 15 kB; more at high rates, where timers would starve a small one.
            burst = max(15_000, round(bw * 1e6 / 8 * 0.00025))
            for node, interface in self._shaped:
                tbf = f"rate {round(bw * 1e6)}bit burst {burst} limit {self.queue * _FRAME}".split()
                checked(node, "tc", "qdisc", "replace", "dev", interface, "root", "tbf", *tbf)
        self.bw = bw

    def delete(self) -> None:
        """Remove both interfaces and what belongs to them."""
        if self._redirected is not None:
            self._redirected.node.pexec(["ip", "link", "delete", _ifb(self._redirected)])
        super().delete()

    def _bottlenecks(self) -> list[tuple[Any, str]]:
        """One place per direction to put the token bucket; makes the ifb where a host is at one end."""
        ends = [end for end in (self.intf1, self.intf2) if isinstance(end.node, Switch)]
        places = [(end.node, end.name) for end in ends]
        if len(ends) == 1:
            (port,) = ends
            self._redirect(port)
            places.append((port.node, _ifb(port)))
        return places

    def _redirect(self, port: Intf) -> None:
        """Send what arrives at `port` through an ifb first."""
        node, name, ifb = port.node, port.name, _ifb(port)
        checked(node, "ip", "link", "add", ifb, "type", "ifb")
        checked(node, "ip", "link", "set", ifb, "up")
        checked(node, "tc", "qdisc", "add", "dev", name, "ingress")
        everything = ["parent", "ffff:", "protocol", "all", "u32", "match", "u32", "0", "0"]
        action = f"action mirred egress redirect dev {ifb}".split()
        checked(node, "tc", "filter", "add", "dev", name, *everything, *action)
        self._redirected = port

    def _unshape(self) -> None:
        if self._redirected is not None:
            checked(self._redirected.node, "tc", "qdisc", "delete", "dev", self._redirected.name, "ingress")
            checked(self._redirected.node, "ip", "link", "delete", _ifb(self._redirected))
        for node, interface in self._shaped:
            if self._redirected is None or interface != _ifb(self._redirected):
                checked(node, "tc", "qdisc", "delete", "dev", interface, "root")
        self._shaped, self._redirected = [], None


def _ifb(port: Intf) -> str:
    """Name of the ifb for the switch port `port` (15 characters at most, or `ip` says so)."""
    return f"ifb-{port.name}"
