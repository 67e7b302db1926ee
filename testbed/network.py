"""Mininet without its effects on the whole machine, and its prompt."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from mininet.cli import CLI
from mininet.log import output
from mininet.net import Mininet
from mininet.topo import Topo

from testbed.emulation.emulator import Emulator
from testbed.emulation.statistics import EmulationStats
from testbed.links import EmulatedLink
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

    def stop(self) -> None:
        """Take everything down."""
        try:
            super().stop()
        finally:
            self._emulator.close()


class Prompt(CLI):
    """Mininet's prompt, also for commands from a pipe."""

    if not sys.stdin.isatty():
        prompt = ""
        readlineInited = True  # Mininet's history is for people, not for pipes

    def waitForNode(self, node: Any) -> None:
        """Show what a command prints until it ends."""
        if self.isatty():
            super().waitForNode(node)
            return
        # Mininet would feed the next commands in the pipe to the running one.
        while node.waiting:
            output(node.monitor())
