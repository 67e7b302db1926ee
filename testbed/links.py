"""Mininet links with bandwidth, delay, jitter and loss, which can be changed while packets flow.

A link with nothing emulated is a plain veth pair. All others go through a hidden namespace, the middle, where
everything happens (testbed.emulation has the drawings); the nodes' interfaces are Mininet's, and nothing is set on them
but that they send no super-packets (GSO) while packets are to be lost.

    net = Mininet(topo, link=EmulatedLink, ...)          # with any hosts and switches
    link = net.addLink(h1, s1, bw=100, delay="10ms", loss="0.1%", params2={"delay": "30ms"})
    link.set(delay="80ms")
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from mininet.link import Link

from testbed.emulation.conditions import NAMES, QUEUE, Conditions, LinkError
from testbed.emulation.emulator import Emulator, End, Passage
from testbed.processes import checked

__all__ = ["QUEUE", "Conditions", "EmulatedLink", "LinkError"]

_MININET = {"port1", "port2", "intfName1", "intfName2", "addr1", "addr2", "intf", "cls1", "cls2"}
_INTERFACE = {"ip", "mac", "ifconfig", "up", "port", "moveIntfFn"}
_OFFLOADS = {"tso": "tcp-segmentation-offload", "gso": "generic-segmentation-offload", "tx-udp-segmentation": ""}
_UNCHANGED: Any = object()


@cache
def _of_this_process(backend: str | None) -> Emulator:
    """For scripts that have no testbed.network.Network, which brings its own."""
    return Emulator(backend)


class EmulatedLink(Link):
    """A link whose directions have the parameters below; both the same, unless params1 or params2 say otherwise."""

    def __init__(
        self,
        node1: Any,
        node2: Any,
        bw: str | float | None = None,
        delay: str | float | None = None,
        jitter: str | float | None = None,
        loss: str | float | None = None,
        queue: int | None = None,
        params1: Mapping[str, Any] | None = None,
        params2: Mapping[str, Any] | None = None,
        emulation: Emulator | str | None = None,
        **params: Any,
    ) -> None:
        """Connect two nodes. None: not emulated. LinkError for what cannot be.

        bw: Mbit/s, or such as "100mbit"; inf: unlimited, but can be limited later.
        delay, jitter: milliseconds, or such as "250us", one way; 0: none, but can be changed later.
        loss: percent, or such as "0.1%"; 0 likewise.
        queue: full-sized packets that the bottleneck holds at most (250).
        params1, params2: any of these for what node 1 or node 2 sends, and Mininet's parameters of its interface.
        emulation: "netem" or "delay-line"; None: netem where the kernel has it.
        """
        self._passage: Passage | None = None
        self._ends = f"{node1}-{node2}"
        common = {"bw": bw, "delay": delay, "jitter": jitter, "loss": loss, "queue": queue}
        asked = [common | _ours(given) for given in (params1, params2)]
        theirs = [_theirs(given) for given in (params1, params2)]
        unknown = (params.keys() - _MININET) | {name for each in theirs for name in each.keys() - _INTERFACE}
        if unknown:
            raise LinkError(f"link {self._ends}: cannot emulate {', '.join(sorted(unknown))}")
        given = {name for each in asked for name, value in each.items() if value is not None}
        if given == {"queue"}:
            raise LinkError(f"link {self._ends}: a queue needs a bandwidth (bw)")
        self._delayed = bool(given & {"delay", "jitter", "loss"})
        self._nodes = node1, node2
        self._emulator: Emulator | None = None
        self._offloads: dict[int, list[str]] = {}
        self.conditions: tuple[Conditions, Conditions] = self._changed((Conditions(), Conditions()), asked)
        """What is in force from node 1 and from node 2."""
        if given:
            self._emulator = emulation if isinstance(emulation, Emulator) else _of_this_process(emulation)
        super().__init__(node1, node2, params1=theirs[0], params2=theirs[1], **params)
        self._split_super_packets()

    def set(
        self,
        bw: str | float | None = _UNCHANGED,
        delay: str | float | None = _UNCHANGED,
        jitter: str | float | None = _UNCHANGED,
        loss: str | float | None = _UNCHANGED,
        queue: int | None = _UNCHANGED,
        direction: int | None = None,
    ) -> None:
        """Change what is given, under traffic; nothing is lost or reordered by that. None: no limit, no delay ...

        `direction`: 1 for what node 1 sends, 2 for what node 2 sends, None for both. A longer delay is in force at
        once, a shorter one after twice the difference (delay line) or once the difference (netem). LinkError for what
        the link was not made for.
        """
        values = {"bw": bw, "delay": delay, "jitter": jitter, "loss": loss, "queue": queue}
        values = {name: value for name, value in values.items() if value is not _UNCHANGED}
        if direction not in (None, 1, 2):
            raise LinkError(f"link {self._ends}: there is no direction {direction}, but 1 and 2")
        new = self._changed(self.conditions, [values if direction in (None, i) else {} for i in (1, 2)])
        if new == self.conditions:
            return
        if self._passage is None:
            raise LinkError(f"link {self._ends}: it was made with nothing to change: make it with bw=inf or delay=0")
        if not self._delayed and any(each.delay or each.jitter or each.loss for each in new):
            raise LinkError(f"link {self._ends}: it was made with a bandwidth only: make it with delay=0")
        self._passage.change(new)
        self.conditions = new
        self._split_super_packets()

    def set_bw(self, bw: float | None) -> None:
        """Change the bandwidth to `bw` Mbit/s each way; None: unlimited."""
        self.set(bw=bw)

    def makeIntfPair(
        self, name1: str, name2: str, mac1: str | None = None, mac2: str | None = None, *_: Any, **__: Any
    ) -> None:
        """Called by Mininet's Link: make both interfaces."""
        if self._emulator is None:
            super().makeIntfPair(name1, name2, mac1, mac2, *self._nodes, deleteIntfs=False)
            return
        node1, node2 = self._nodes
        ends = End(name1, node1.pid, mac1), End(name2, node2.pid, mac2)
        try:
            self._passage = self._emulator.passage(ends, self.conditions, self._delayed)
        except LinkError as error:
            raise LinkError(f"link {self._ends}: {error}") from None

    def delete(self) -> None:
        """Remove both interfaces and what is between them."""
        super().delete()
        if self._passage is not None and self._emulator is not None:
            self._emulator.remove(self._passage)
            self._passage = None

    def _changed(
        self, old: tuple[Conditions, Conditions], values: list[dict[str, Any]]
    ) -> tuple[Conditions, Conditions]:
        try:
            return old[0].changed(values[0]), old[1].changed(values[1])
        except LinkError as error:
            raise LinkError(f"link {self._ends}: {error}") from None

    def _split_super_packets(self) -> None:
        """Let the nodes send no super-packets (GSO) where packets are lost: dozens would be lost at once."""
        for i, (intf, conditions) in enumerate(zip((self.intf1, self.intf2), self.conditions, strict=True)):
            if conditions.loss and i not in self._offloads:
                features = checked(intf.node, "ethtool", "-k", intf.name)
                on = [name for name, full in _OFFLOADS.items() if f"{full or name}: on" in features]
                self._offloads[i] = on
                self._set_offloads(intf, on, "off")
            elif not conditions.loss and i in self._offloads:
                self._set_offloads(intf, self._offloads.pop(i), "on")

    def _set_offloads(self, intf: Any, names: list[str], state: str) -> None:
        if names:
            checked(intf.node, "ethtool", "-K", intf.name, *(word for name in names for word in (name, state)))


def _ours(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of `params` that concern the emulation."""
    return {name: value for name, value in (params or {}).items() if name in NAMES}


def _theirs(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those of `params` that concern Mininet's interface."""
    return {name: value for name, value in (params or {}).items() if name not in NAMES}
