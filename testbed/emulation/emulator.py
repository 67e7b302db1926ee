"""The middles of all links of a network, and what is in them."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass

from testbed.emulation import netem, tbf
from testbed.emulation.conditions import Conditions, LinkError
from testbed.emulation.middle import Middle
from testbed.emulation.process import DelayLineProcess
from testbed.emulation.statistics import DirectionStats, EmulationStats

BACKENDS = ("netem", "delay-line")
Pair = tuple[Conditions, Conditions]
"""What is in force from node 1 and from node 2."""


@dataclass(frozen=True)
class End:
    """One end of a link."""

    interface: str
    """Its name on the node."""
    pid: int
    """Of a process in the node's network namespace."""
    mac: str | None


class Emulator:
    """Namespace and process are made when the first link needs them, and gone with the last."""

    def __init__(self, backend: str | None = None, seed: int = 0) -> None:
        """`backend`: one of BACKENDS; None: netem where the kernel has it. `seed`: of the delay line's losses.

        LinkError when there is no such backend, here or at all.
        """
        if backend is not None and backend not in BACKENDS:
            raise LinkError(f"no emulation is called {backend}: there are {' and '.join(BACKENDS)}")
        self.seed = seed
        self.died: str | None = None
        """Why the delay line is no more, if nobody has stopped it; its links carry nothing since."""
        self.name = "none"
        """"netem" or "delay-line" as soon as a link had a delay, jitter or loss, else "tbf"; "none" without any."""
        self._backend = backend
        self._middle: Middle | None = None
        self._process: DelayLineProcess | None = None
        self._passages: list[Passage] = []
        self._numbers = itertools.count(1)
        if backend == "netem":
            self._check_netem()

    @property
    def middle(self) -> Middle:
        """Where the links' middles are."""
        self._middle = self._middle or Middle()
        return self._middle

    @property
    def process(self) -> DelayLineProcess:
        """The delay line; LinkError when it has died."""
        if self.died:
            raise LinkError(self.died)
        self._process = self._process or DelayLineProcess(self.middle.fd, self._note_death)
        return self._process

    def passage(self, ends: tuple[End, End], conditions: Pair, delayed: bool) -> Passage:
        """Make both interfaces of a link and what is between them. LinkError.

        `delayed`: more than a bandwidth is emulated, or may be later.
        """
        kind = self._chosen() if delayed else "tbf"
        made = _KINDS[kind](self, next(self._numbers), ends, conditions)
        try:
            made.make()
        except LinkError:
            made.remove()
            self.middle.remove(*made.ports)
            self._close_if_idle()
            raise
        self._passages.append(made)
        if self.name == "none" or delayed:
            self.name = kind
        return made

    def remove(self, passage: Passage) -> None:
        """Remove what was between the two interfaces of a link, which are gone."""
        if passage in self._passages:
            self._passages.remove(passage)
            passage.remove()
            self._close_if_idle()

    def stats(self) -> EmulationStats:
        """Counters of all links since they were made. LinkError when the delay line has died."""
        if not self._passages:
            return EmulationStats(self.name)
        line = self.process.stats() if self._process is not None or self.died else {}
        qdiscs = tbf.statistics(self.middle)
        directions = {}
        for passage in list(self._passages):
            for name, bottleneck, exit_port in passage.directions():
                queue, last = qdiscs.get(bottleneck, {}), qdiscs.get(exit_port, {})
                counted = {"packets": last.get("packets", 0), "lost": last.get("drops", 0) if last is not queue else 0}
                directions[name] = DirectionStats(
                    **{**counted, **line.get("directions", {}).get(name, {})},
                    dropped=queue.get("drops", 0),
                    backlog=queue.get("backlog", 0),
                )
        return EmulationStats(self.name, line.get("realtime"), line.get("cpu", 0.0), line.get("wakeups", 0), directions)

    def queues(self) -> dict[str, str]:
        """The bottlenecks of all links: ports in the middle, and what direction (h1-eth0->s1-eth1) waits there."""
        return {port: name for passage in self._passages for name, port, _ in passage.directions()}

    def close(self) -> None:
        """Remove all that there is; the links carry nothing any more."""
        self._passages.clear()
        self._close_if_idle()

    def _chosen(self) -> str:
        if self._backend is None:
            self._backend = "netem" if netem.present(self.middle) else "delay-line"
        return self._backend

    def _check_netem(self) -> None:
        try:
            if not netem.present(self.middle):
                raise LinkError("this kernel has no netem: modprobe sch_netem, or use the emulation delay-line")
        finally:
            self._close_if_idle()

    def _note_death(self, reason: str) -> None:
        self.died = reason

    def _close_if_idle(self) -> None:
        if self._passages:
            return
        if self._process is not None:
            self._process.stop()
        if self._middle is not None:
            self._middle.close()
        self._process = self._middle = None


class Passage:
    """The middle of one link: here, one where only bandwidth is emulated; see the drawing in testbed.emulation."""

    def __init__(self, emulator: Emulator, number: int, ends: tuple[End, End], conditions: Pair) -> None:
        self.emulator = emulator
        self.ends = ends
        self.conditions = conditions
        self.names = tuple(f"{a.interface}->{b.interface}" for a, b in (ends, ends[::-1]))
        self.ports = [f"{number}{letter}" for letter in "abcd"]

    def make(self) -> None:
        """Make both interfaces and what is between them. LinkError."""
        a, b, *_ = self.ports
        self._make_interfaces(a, b)
        self.emulator.middle.tc(
            *tbf.redirection(a, b),
            *tbf.redirection(b, a),
            *self._commands(self.conditions),
        )

    def change(self, new: Pair) -> None:
        """Let `new` be in force, under traffic. LinkError."""
        before = self._commands(self.conditions)
        changed = [command for command in self._commands(new) if command not in before]
        if changed:
            self.emulator.middle.tc(*changed)
        self.conditions = new

    def remove(self) -> None:
        """Remove what does not go with the nodes' interfaces."""

    def bottlenecks(self) -> tuple[str, str]:
        """The ports whose token buckets limit what comes from node 1, and from node 2."""
        return self.ports[1], self.ports[0]

    def directions(self) -> list[tuple[str, str, str]]:
        """Per direction: its name, the port of its bottleneck, the port where packets leave the middle."""
        return list(zip(self.names, self.bottlenecks(), (self.ports[1], self.ports[0]), strict=True))

    def _commands(self, conditions: Pair) -> list[str]:
        """The commands of tc that let `conditions` be in force."""
        return [tbf.command(port, each) for port, each in zip(self.bottlenecks(), conditions, strict=True)]

    def _make_interfaces(self, *ports: str, further: tuple[str, ...] = ()) -> None:
        # Ports take packets of any size: the nodes' interfaces say which the link carries.
        veths = []
        for port, end in zip(ports, self.ends, strict=False):
            mac = f" address {end.mac}" if end.mac else ""
            veths.append(f"link add {port} mtu 65535 type veth peer name {end.interface}{mac} netns {end.pid}")
        up = (f"link set {port} up" for port in ports)
        self.emulator.middle.ip(*veths, *further, *up)


class NetemPassage(Passage):
    """With netem behind the bottleneck."""

    def make(self) -> None:
        a, b, c, d = self.ports
        self._make_interfaces(a, b, c, d, further=(f"link add {c} mtu 65535 type veth peer name {d} mtu 65535",))
        redirections = (tbf.redirection(*pair) for pair in ((a, c), (d, b), (b, d), (c, a)))
        self.emulator.middle.tc(*itertools.chain(*redirections), *self._commands(self.conditions))

    def remove(self) -> None:
        self.emulator.middle.remove(self.ports[2])

    def bottlenecks(self) -> tuple[str, str]:
        return self.ports[2], self.ports[3]

    def _commands(self, conditions: Pair) -> list[str]:
        exits = self.ports[1], self.ports[0]
        return super()._commands(conditions) + [
            netem.command(port, each) for port, each in zip(exits, conditions, strict=True)
        ]


class DelayLinePassage(Passage):
    """With the delay line before the bottleneck."""

    def make(self) -> None:
        a, b, *_ = self.ports
        self._make_interfaces(a, b)
        self.emulator.middle.tc(*self._commands(self.conditions))
        for name, source, to, conditions in zip(self.names, (a, b), (b, a), self.conditions, strict=True):
            self.emulator.process.add(name, source, to, f"{self.emulator.seed} {name}", conditions)

    def change(self, new: Pair) -> None:
        for name, before, after in zip(self.names, self.conditions, new, strict=True):
            if (before.delay, before.jitter, before.loss) != (after.delay, after.jitter, after.loss):
                self.emulator.process.set(name, after)
        super().change(new)

    def remove(self) -> None:
        for name in self.names:
            with contextlib.suppress(LinkError):
                self.emulator.process.remove(name)


_KINDS: dict[str, type[Passage]] = {"tbf": Passage, "netem": NetemPassage, "delay-line": DelayLinePassage}
