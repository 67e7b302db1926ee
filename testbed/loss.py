"""Random loss of packets on their way through the switches; what is lost goes to an interface of its own.

Every packet leaves a switch by one port, and there a BPF program sends it astray with the probability asked for: data,
acknowledgements, control segments and control connections alike, but no ARP. Unlike the loss of a link (testbed.links),
what is lost here can be captured. The hosts stop making super-packets, or dozens of segments would be lost at once.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mtcp.linux.bpf import loader
from mtcp.linux.bpf.asm import R0, R1, R2, Assembler, Field, Helper
from mtcp.linux.bpf.loader import AttachType, ProgramType
from testbed import sandbox
from testbed.capture import Capture
from testbed.processes import checked

_ASTRAY, _SEEN = "lost0", "lost1"
_NEXT = -1  # TCX_NEXT
_PROTOCOL = Field(16, 4)  # of struct __sk_buff
_ETH_P_IP: int = struct.unpack("=H", struct.pack("!H", 0x0800))[0]


def program(percent: float, interface: int) -> bytes:
    """Send this share of all IPv4 packets to the interface of this index, and let all others pass."""
    asm = Assembler()
    asm.load(R2, R1, _PROTOCOL)
    asm.jump("!=", R2, _ETH_P_IP, "pass")
    asm.call(Helper.GET_PRANDOM_U32)
    threshold = min(round(percent / 100 * 2**32), 2**32 - 1)
    asm.mov(R1, struct.unpack("=i", struct.pack("=I", threshold))[0], bits=32)
    asm.jump(">=", R0, R1, "pass", bits=32)
    asm.mov(R1, interface)
    asm.mov(R2, 0)
    asm.call(Helper.REDIRECT)
    asm.exit()
    asm.label("pass")
    asm.exit(_NEXT)
    return asm.assemble()


class Loss:
    """Loss on all switches of a Mininet `net`, as a context manager; what was lost is in a capture."""

    def __init__(self, net: Any, percent: float, path: Path) -> None:
        """`path`: of the pcap file. Only in a sandbox, whose own namespace the switches are in."""
        if not 0 <= percent < 100:
            raise ValueError(f"{percent} % is no loss")
        self.passed = self.lost = 0
        """Packets that came to a switch while this lasted, and those of them that were lost; 0 until it has ended."""
        self._net = net
        self._percent = percent
        self._path = path
        self._capture: Capture | None = None
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        if not sandbox.inside():
            raise RuntimeError("loss is for a sandbox's own switches: call testbed.sandbox.enter() first")
        for host in self._net.hosts:
            for interface in host.intfNames():
                if interface != "lo":
                    checked(host, "ethtool", "-K", interface, "tso", "off", "gso", "off")
        switch = self._net.switches[0]
        with ExitStack() as undo:
            checked(switch, "ip", "link", "add", _ASTRAY, "type", "veth", "peer", "name", _SEEN)
            undo.callback(checked, switch, "ip", "link", "delete", _ASTRAY)
            for interface in (_ASTRAY, _SEEN):
                checked(switch, "ip", "link", "set", interface, "up")
            self._capture = undo.enter_context(Capture(switch, self._path, interface=_SEEN, filter="ip"))
            self._before = self._received()
            code = program(self._percent, socket.if_nametoindex(_ASTRAY))
            loaded = loader.program_load(ProgramType.SCHED_CLS, code, "loss")
            undo.callback(os.close, loaded)
            for port in self._ports():
                link = loader.link_create(loaded, socket.if_nametoindex(port), AttachType.TCX_EGRESS)
                undo.callback(os.close, link)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.passed = self._received() - self._before
        self._undo.close()
        if self._capture is not None and self._capture.stats is not None:
            self.lost = self._capture.stats.received

    @property
    def drops(self) -> int:
        """Lost packets that the capture missed."""
        return self._capture.stats.dropped if self._capture is not None and self._capture.stats is not None else 0

    def _ports(self) -> list[str]:
        return [name for switch in self._net.switches for name in switch.intfNames() if name != "lo"]

    def _received(self) -> int:
        """Packets that have come to the switches' ports."""
        listed = json.loads(checked(self._net.switches[0], "ip", "-j", "-s", "link", "show"))
        ports = set(self._ports())
        return sum(link["stats64"]["rx"]["packets"] for link in listed if link["ifname"] in ports)
