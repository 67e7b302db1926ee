"""Mininet without its effects on the whole machine, and its prompt."""

from __future__ import annotations

import sys
from typing import Any

from mininet.cli import CLI
from mininet.log import output
from mininet.net import Mininet
from mininet.topo import Topo

from testbed.links import ShapedLink
from testbed.nodes import BridgeSwitch, MtcpHost

Mininet.inited = True  # no fixLimits(): it changes sysctls of the whole machine


class Network(Mininet):
    """A Mininet of MtcpHost, BridgeSwitch and ShapedLink."""

    def __init__(self, topo: Topo, **params: Any) -> None:
        """Build `topo`; `params` are Mininet's."""
        defaults = {"host": MtcpHost, "switch": BridgeSwitch, "link": ShapedLink, "controller": None}
        super().__init__(topo, **{**defaults, **params})


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
