"""The ground under `mtcp.sim`: virtual time, a network that loses, repeats, delays and parts, and agents that die."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

from mtcp.errors import RemoteProtocolError
from mtcp.wire.frames import Frame, StateReplyFrame, StateRequest
from mtcp.wire.options import AnyOption


@dataclass(frozen=True)
class Faults:
    """What goes wrong: probabilities per message, the longest extra delay in seconds, and how often the rest."""

    loss: float = 0.0
    duplication: float = 0.0
    delay: float = 0.0
    partitions: int = 0
    """Times that a link, in one direction or both, carries nothing for a while."""
    agent_crashes: int = 0
    """Times that an agent dies, at any step, and begins anew without its memory."""
    application_crashes: int = 0
    server_crashes: int = 0
    """Times that a whole server dies, its kernel and its connections with it, and comes up again empty."""
    seclusions: int = 0
    """Times that nobody can reach a server for longer than its lease, or so."""
    closing: float = 0.0
    """Probability that the client's application goes in the middle."""


class Entry(NamedTuple):
    """A line of the trace: a message from `source` to `target`, or, without a target, what happened at `source`."""

    time: float
    source: str
    target: str
    what: Any
    fate: str = ""

    def __str__(self) -> str:
        way = f"{self.source} -> {self.target}" if self.target else f"{self.source}:"
        return f"{self.time:8.4f} {way} {describe(self.what)}{self.fate and '  ' + self.fate}"


def describe(what: Any) -> str:
    """A message in few words."""
    match what:
        case str():
            return what
        case StateReplyFrame(reply=reply):
            return f"STATE_REPLY {reply.attempt}"
        case StateRequest(attempt=attempt):
            return f"STATE_REQUEST {attempt}"
        case _ if hasattr(what, "subtype"):
            number = getattr(what, "attempt", "")
            reason = f" {what.reason.name}" if hasattr(what, "reason") else ""
            return f"{what.subtype.name} {number}{reason}"
        case _:
            reason = f" {what.reason.name}" if hasattr(what, "reason") else ""
            return f"{what.type.name} frame {what.attempt}{reason}"


class Crash(Exception):
    """The agent dies at this step."""


class Network:
    """Virtual time and unreliable delivery."""

    def __init__(self, seed: int | str, faults: Faults) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.faults = faults
        self.trace: list[Entry] = []
        self.cut: dict[tuple[str, str], int] = {}
        """Links that carry nothing, by source and target, and by how many faults."""
        self.lose: dict[str, int] = {}
        """Messages, in few words, to lose for certain, and how often."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def note(self, host: str, text: str) -> None:
        self.trace.append(Entry(self.now, host, "", text))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._number), action))

    def send(self, source: str, target: str, what: Frame | AnyOption | None, arrive: Callable[[], None]) -> None:
        """Deliver once, twice or never, in any order; `what` is None for data, of which the trace is silent."""
        r, faults = self.random, self.faults
        if self.lose and what is not None and self.lose.get(words := describe(what), 0):
            self.lose[words] -= 1
            copies, fate = 0, "LOST"
        elif self.cut.get((source, target)):
            copies, fate = 0, "CUT"
        else:
            copies = (r.random() >= faults.loss) + (r.random() < faults.duplication)
            fate = ("LOST", "", "TWICE")[copies]
        if what is not None:
            self.trace.append(Entry(self.now, source, target, what, fate))
        for _ in range(copies):
            self.after(0.001 + r.random() * faults.delay, arrive)

    def part(self, links: list[tuple[str, str]], seconds: float) -> None:
        """Cut `links` for a while."""
        for link in links:
            self.cut[link] = self.cut.get(link, 0) + 1
            self.trace.append(Entry(self.now, *link, f"cut for {seconds:.2f} s"))

        def heal() -> None:
            for link in links:
                self.cut[link] -= 1

        self.after(seconds, heal)

    def step(self) -> None:
        self.now, _, action = heapq.heappop(self._queue)
        action()


class Host:
    """A host whose agent may die at any step that has an effect, and begins anew a while later."""

    def __init__(self, name: str, net: Network) -> None:
        self.name, self.net = name, net
        self.up = True
        self._fuse = 0

    def run(self, action: Callable[[], None]) -> None:
        """Something for the agent to do."""
        if not self.up:
            return
        try:
            action()
        except RemoteProtocolError as error:
            self.net.note(self.name, f"dropped: {error}")
        except Crash:
            self.crash(0.02 + self.net.random.random() * 3)

    def crash_soon(self, steps: int) -> None:
        """The agent dies at its `steps`-th step from now on; 0: it does not."""
        self._fuse = steps

    def point(self) -> None:
        """A step of the agent; Crash if it is its last."""
        if self._fuse:
            self._fuse -= 1
            if not self._fuse:
                raise Crash

    def crash(self, seconds: float) -> None:
        """The agent is gone, and back in `seconds`."""
        self.up, self._fuse = False, 0
        self.net.note(self.name, "agent dies")
        self.forget()
        self.net.after(seconds, self._restart)

    def _restart(self) -> None:
        self.up = True
        self.net.note(self.name, "agent begins anew")
        self.run(self.recover)

    def forget(self) -> None:
        """Lose what only the agent's memory holds."""
        raise NotImplementedError

    def recover(self) -> None:
        """Go on from what survives."""
        raise NotImplementedError
