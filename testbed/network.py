"""Mininet without its effects on the whole machine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mininet.net import Mininet
from mininet.topo import Topo

from testbed.emulation.emulator import Emulator
from testbed.emulation.middle import Middle
from testbed.emulation.statistics import EmulationStats
from testbed.links import EmulatedLink, LinkError
from testbed.nodes import BridgeSwitch, MtcpHost

Mininet.inited = True  # no fixLimits(): it changes sysctls of the whole machine


class Network(Mininet):
    """A Mininet of MtcpHost, BridgeSwitch and EmulatedLink."""

    def __init__(self, topo: Topo, emulation: str | None = None, seed: int = 0, **params: Any) -> None:
        """Build `topo`; `params` are Mininet's. LinkError when a link cannot be what it is to be.

        `emulation`: "netem" or "delay-line"; None: netem where the kernel has it. `seed`: of the delay line's losses.
        """
        self._emulator = Emulator(emulation, seed)
        link = partial(EmulatedLink, emulation=self._emulator)
        defaults = {"host": MtcpHost, "switch": BridgeSwitch, "link": link, "controller": None}
        try:
            super().__init__(topo, **{**defaults, **params})
        except BaseException:
            self._emulator.close()
            raise

    @property
    def emulation(self) -> str:
        """What emulates the links: "netem", "delay-line", "tbf" (only bandwidths) or "none"."""
        return self._emulator.name

    @property
    def emulation_died(self) -> str | None:
        """Why the links with a delay or loss carry nothing any more, if their emulator has died: noticed at once."""
        return self._emulator.died

    def emulation_stats(self) -> EmulationStats:
        """What the emulator has counted since the links were made. LinkError when it has died."""
        return self._emulator.stats()

    def set_link(self, node1: str, node2: str, conditions: Mapping[str, Any], one_way: bool = False) -> None:
        """Change the link of the nodes of these names: bw, delay, jitter, loss, queue, as of EmulatedLink.set.

        `one_way`: only what `node1` sends. LinkError when there is no such link, or it cannot be like that.
        """
        links = self.linksBetween(self[node1], self[node2]) if {node1, node2} <= {*self.keys()} else []
        if not links:
            raise LinkError(f"there is no link {node1}-{node2}")
        for link in links:
            sender = 1 if link.intf1.node is self[node1] else 2
            link.set(**conditions, direction=sender if one_way else None)

    def bottlenecks(self) -> tuple[Middle, dict[str, str]]:
        """The namespace that packets on links wait in, and where: the ports there, and the direction of each."""
        return self._emulator.middle, self._emulator.queues()

    def stop(self) -> None:
        """Take everything down."""
        try:
            super().stop()
        finally:
            self._emulator.close()
