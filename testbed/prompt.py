"""Mininet's prompt, with commands that show and change what links do."""

from __future__ import annotations

import math
import select
import sys
from typing import Any

from mininet.cli import CLI
from mininet.log import error, output
from mininet.util import quietRun

from testbed.emulation.conditions import NAMES, Conditions
from testbed.errors import TestbedError
from testbed.links import EmulatedLink
from testbed.network import Network
from testbed.nodes import require_shell

FREE = "as fast as the machine is"


class Prompt(CLI):
    """Mininet's prompt, also for commands from a pipe."""

    if not sys.stdin.isatty():
        prompt = ""
        readlineInited = True  # Mininet's history is for people, not for pipes

    def do_links(self, _line: str) -> None:
        """Show all links, and what is in force on each: links"""
        for link in self.mn.links:
            output(f"{link} {link.status()}: {_of(link)}\n")

    def do_selftest(self, _line: str) -> None:
        """Measure all links, which should be idle, and compare with what was asked for: selftest"""
        from testbed import selftest  # slow to import

        try:
            for directions in selftest.measure(self.mn.links).values():
                for asked, measured in directions:
                    faults = "; ".join(selftest.judge(asked, measured))
                    output(f"{measured}{f'  *** {faults}' if faults else ''}\n")
        except TestbedError as failure:
            error(f"*** {failure}\n")

    def do_set(self, line: str) -> None:
        """Change a link, both ways or only what its first node sends; none: not emulated any more.

        set client sw1 delay=20ms jitter=2ms loss=0.1% bw=50mbit queue=100
        set client -> sw1 loss=1%
        """
        words = line.split()
        one_way = words[1:2] == ["->"]
        names, changes = words[: 3 if one_way else 2], words[3 if one_way else 2 :]
        values = dict(change.split("=", 1) for change in changes if "=" in change)
        if len(names) < 2 or len(values) != len(changes) or not values or values.keys() - set(NAMES):
            error(f"*** set NODE1 [->] NODE2 WHAT=VALUE …; WHAT is one of {', '.join(NAMES)}\n")
            return
        new = {name: None if value == "none" else value for name, value in values.items()}
        try:
            self.mn.set_link(names[0], names[-1], new, one_way=one_way)
        except TestbedError as refusal:
            error(f"*** {refusal}\n")

    def default(self, line: str) -> None:
        """Run a command on a node."""
        try:
            super().default(line)
        except TestbedError as failure:
            error(f"*** {failure}\n")

    def postcmd(self, stop: bool, line: str) -> bool:
        """Say that the emulator has died, if it has."""
        if self.mn.emulation_died:
            error(f"*** {self.mn.emulation_died}: leave, and start again\n")
        return bool(super().postcmd(stop, line))

    def waitForNode(self, node: Any) -> None:
        """Show what a command prints until it ends; what is typed meanwhile is for the command, if a person types.

        CommandError when the node's shell is killed.
        """
        poller = select.poll()
        poller.register(node.stdout, select.POLLIN)
        if self.isatty():
            quietRun("stty -icanon min 1")
            poller.register(self.stdin, select.POLLIN)
        while node.waiting:
            try:
                ready = [descriptor for descriptor, _ in poller.poll(100)]
                if self.stdin.fileno() in ready:
                    node.write(self.stdin.read(1))
                if node.stdout.fileno() in ready:
                    output(node.monitor())
                elif not ready:
                    require_shell(node)
            except KeyboardInterrupt:
                node.sendInt()


def told(conditions: Conditions) -> str:
    """`conditions` as people say it; "" for none."""
    parts = []
    if conditions.bandwidth != math.inf:
        parts.append(f"{conditions.bandwidth / 1e6:g} Mbit/s (queue {conditions.queue})")
    if conditions.delay:
        jitter = f" ± {conditions.jitter * 1e3:g} ms" if conditions.jitter else ""
        parts.append(f"{conditions.delay * 1e3:g} ms{jitter}")
    if conditions.loss:
        parts.append(f"loss {conditions.loss * 100:g} %")
    return ", ".join(parts)


def emulated(net: Network) -> str:
    """What is emulated in `net`, and by what."""
    kinds: dict[str, list[str]] = {}
    for link in net.links:
        if any(told(each) for each in link.conditions):
            kinds.setdefault(_of(link), []).append(f"{link.intf1.node}-{link.intf2.node}")
    lines = [f"\n    {', '.join(links)}: {text}" for text, links in kinds.items()]
    return f"Links, each way, by {net.emulation}:{''.join(lines)}" if lines else f"Links are {FREE}."


def _of(link: EmulatedLink) -> str:
    there, back = (told(each) or FREE for each in link.conditions)
    return there if there == back else f"{link.intf1.node} sends: {there}; {link.intf2.node} sends: {back}"
