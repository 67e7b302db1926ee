"""The delay line's process: `python -m testbed.emulation.delay_line NAMESPACE CONTROL` (descriptors; see process.py).

One loop for all directions of all links: packets that have come are scheduled, those that are due are sent. It runs
with real-time priority where that is allowed, because a busy machine would otherwise add milliseconds to every delay.

    command over CONTROL, one JSON object a message      answer: {} or what it says; {"error": ...}
    {"do": "add", "direction", "from", "to", "seed", "delay", "jitter", "loss"}
    {"do": "set", "direction", "delay", "jitter", "loss"}
    {"do": "remove", "direction"}
    {"do": "stats"}                                      counters since the start: see `statistics`

It ends when the other end of CONTROL is closed, or the process that started it ends.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import math
import os
import resource
import socket
import struct
import sys
from collections import Counter
from select import select
from time import monotonic
from typing import Any

from testbed.emulation.schedule import Schedule
from testbed.emulation.slots import Slots
from testbed.emulation.statistics import steps
from testbed.namespaces import setns

_SOL_PACKET, _PACKET_STATISTICS, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 263, 6, 15, 23
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_ETH_P_ALL = 3
_BUFFER = 64 << 20  # bytes; a smaller send buffer would be a limit of the bottleneck's queue
_PR_SET_TIMERSLACK = 29
_PRIORITY = 10
_EARLY, _RARE = 60e-6, 500e-6
"""A processor that has slept for long wakes up this late. So after that long, get up earlier and wait awake."""


class Port:
    """A socket on one interface: frames with the header of their offloads (struct virtio_net_hdr), GSO kept."""

    def __init__(self, interface: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            self.socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self.socket.setblocking(False)
        self.socket.bind((interface, _ETH_P_ALL))
        self.fd = self.socket.fileno()
        self._missed = 0

    @property
    def missed(self) -> int:
        """Packets that came while the receive buffer was full."""
        _, dropped = struct.unpack("II", self.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._missed += dropped  # reading sets the kernel's counter to 0
        return self._missed


class Direction:
    """Packets from one port to the other."""

    def __init__(self, source: Port, to: Port, schedule: Schedule) -> None:
        self.source, self.to, self.schedule = source, to, schedule
        self.slots = Slots()
        self.overflow = 0
        self.most = 0
        self.lateness: Counter[int] = Counter()

    def receive(self) -> None:
        """Schedule what has come."""
        slots = self.slots
        count = slots.receive(self.source.fd)
        if count:
            self.schedule.came(monotonic(), count)
            self.most = max(self.most, slots.head - slots.tail)
        elif slots.full:
            self._discard()

    def release(self, now: float) -> None:
        """Send what is due."""
        while (run := self.schedule.due(now)) is not None:
            due, count, kept = run
            if not kept:
                self.slots.drop(count)
                continue
            self.lateness[steps(now - due)] += count
            for number, refused in self.slots.send(self.to.fd, count).items():
                if number != errno.ENOBUFS:  # that is the bottleneck's queue, which counts what it drops itself
                    self.overflow += refused

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, all of packets (a super-packet is one), but for lateness (see process.py)."""
        return {
            "packets": self.slots.head,
            "lost": self.schedule.lost,
            "overflow": self.overflow + self.source.missed,
            "under_way": self.slots.head - self.slots.tail,
            "most_under_way": self.most,
            "lateness": dict(self.lateness),
        }

    def _discard(self) -> None:
        """Lose a packet for which there is no slot."""
        try:
            self.source.socket.recv(1)
            self.overflow += 1
        except OSError:  # the interface is down
            pass


class DelayLine:
    """All directions of all links of a network."""

    def __init__(self, control: socket.socket, parent: int) -> None:
        """`parent`: pidfd of the process to serve."""
        self.control = control
        self.parent = parent
        self.directions: dict[str, Direction] = {}
        self.ports: dict[str, Port] = {}
        self.wakeups = 0
        self.realtime = _real_time()

    def run(self) -> None:
        """Until the parent or the control connection ends."""
        control = self.control.fileno()
        readers: dict[int, Direction] = {}
        while True:
            directions = list(self.directions.values())
            dues = [each.schedule.runs[0].due for each in directions if each.schedule.runs]
            due = min(dues, default=math.inf)
            wait = due - monotonic()
            early = _EARLY if wait > _RARE else 0.0
            timeout = max(0.0, wait - early) if dues else None
            if len(readers) != len(directions):
                readers = {each.source.fd: each for each in directions}
            ready, _, _ = select([control, self.parent, *readers], (), (), timeout)
            self.wakeups += 1
            for fd in ready:
                if fd == control:
                    if not self._answer():
                        return
                    readers = {}
                elif fd == self.parent:
                    return
                elif fd in readers:
                    readers[fd].receive()
            now = monotonic()
            while 0 < due - now < early:
                now = monotonic()
            for direction in directions:
                if direction.schedule.runs:
                    direction.release(now)

    def _answer(self) -> bool:
        """Do what the other end of the control connection wants; False when it has closed it."""
        message = self.control.recv(1 << 16)
        if not message:
            return False
        request = json.loads(message)
        try:
            answer = getattr(self, request.pop("do"))(**request)
        except (OSError, LookupError) as error:
            answer = {"error": str(error)}
        self.control.sendall(json.dumps(answer).encode())
        return True

    def add(self, direction: str, to: str, seed: str, delay: float, jitter: float, loss: float, **source: str) -> Any:
        """Carry packets from one interface to another."""
        for name in (source["from"], to):
            self.ports[name] = self.ports.get(name) or Port(name)
        schedule = Schedule(seed, delay, jitter, loss)
        self.directions[direction] = Direction(self.ports[source["from"]], self.ports[to], schedule)
        return {}

    def set(self, direction: str, delay: float, jitter: float, loss: float) -> Any:
        """Change what happens to the packets that come from now on."""
        self.directions[direction].schedule.set(delay, jitter, loss)
        return {}

    def remove(self, direction: str) -> Any:
        """Carry them no more; what is under way is gone."""
        removed = self.directions.pop(direction, None)
        if removed is None:
            return {}
        kept = {port for each in self.directions.values() for port in (each.source, each.to)}
        for name, port in list(self.ports.items()):
            if port in (removed.source, removed.to) and port not in kept:
                self.ports.pop(name).socket.close()
        return {}

    def stats(self) -> Any:
        """Counters since the start."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "realtime": self.realtime,
            "cpu": usage.ru_utime + usage.ru_stime,
            "wakeups": self.wakeups,
            "directions": {name: each.statistics() for name, each in self.directions.items()},
        }


def _real_time() -> bool:
    """Run before all others, if that is allowed; whether it is."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except PermissionError:
        return False
    return True


def main(namespace: int, control: int) -> None:
    """Serve the process that started this one."""
    parent = os.pidfd_open(os.getppid())
    setns(namespace)
    os.close(namespace)
    high, control = control, os.dup(control)  # the lowest number that is free: select knows 1024
    os.close(high)
    gc.disable()  # nothing here is cyclic, and a collection would be late packets
    DelayLine(socket.socket(fileno=control), parent).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
