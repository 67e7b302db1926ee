"""What passes on the client's link and on the control network, and rules that do harm to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

DATA = "DATA"
"""Kind of every segment that is no control segment."""
DELAY = 0.5
"""Seconds, of the fault `delay`: longer than the first two repetitions take."""


@dataclass(frozen=True)
class Passing:
    """A control segment, a frame between agents or a segment of a kernel, on its way; `forward` lets it go on."""

    kind: str
    """The option's subtype or the frame's type, or DATA."""
    port: int
    """The client's port: it tells the tests' connections apart."""
    source: str
    """Who sent it: IP address on the service network, name of the server on the control network."""
    to: str
    forward: Callable[[], None]
    """May be called never, or repeatedly, at any time and from any thread."""

    def forward_after(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self.forward)
        timer.daemon = True
        timer.start()


Rule = Callable[[Passing], None]


class Faults:
    """A rule per connection; what has none goes on."""

    def __init__(self) -> None:
        self.rules: dict[int, Rule] = {}
        self.counts: dict[tuple[int, str], int] = {}
        """How often a kind of message of a connection came by, by (port, kind); not DATA."""

    def meet(self, passing: Passing) -> None:
        if passing.kind != DATA:
            at = passing.port, passing.kind
            self.counts[at] = self.counts.get(at, 0) + 1
        rule = self.rules.get(passing.port)
        if rule is None:
            passing.forward()
        else:
            rule(passing)


class Harm:
    """One fault to one kind of message of one connection."""

    def __init__(self, kind: str, fault: str) -> None:
        """`fault`: one of `faults_cells.FAULTS`."""
        self._kind = kind
        self._do: Rule = getattr(self, "_" + fault.replace(" ", "_"))
        self._met = 0
        self._held: Passing | None = None
        self._lock = threading.Lock()

    def __call__(self, passing: Passing) -> None:
        with self._lock:
            held = self._held
            if passing.kind == self._kind:
                self._met += 1
                self._do(passing)
            else:
                passing.forward()
            if held is not None and held.source == passing.source:
                self._held = None
                held.forward()

    @property
    def done(self) -> bool:
        """Whether there was anything to harm."""
        return self._met > 0

    def _drop_once(self, passing: Passing) -> None:
        if self._met > 1:
            passing.forward()

    def _drop_always(self, passing: Passing) -> None:
        pass

    def _duplicate(self, passing: Passing) -> None:
        passing.forward()
        passing.forward()

    def _delay(self, passing: Passing) -> None:
        if self._met == 1:
            passing.forward_after(DELAY)
        else:
            passing.forward()

    def _reorder(self, passing: Passing) -> None:
        """The first follows the next of the connection from the same sender; that may be its own repetition."""
        if self._met == 1:
            self._held = passing
        else:
            passing.forward()


class Hold:
    """Stops messages of a connection, until it is told what to do with them."""

    def __init__(self, stops: Callable[[Passing], bool]) -> None:
        self._stops = stops
        self._held: list[Passing] = []
        self._open = False
        self._lock = threading.Lock()
        self.reached = threading.Event()

    def __call__(self, passing: Passing) -> None:
        with self._lock:
            if not self._open and self._stops(passing):
                self._held.append(passing)
                self.reached.set()
                return
        passing.forward()

    def let_go(self, deliver: bool) -> None:
        """From now on all go on; those held do if `deliver`, and are lost otherwise."""
        with self._lock:
            self._open = True
            if deliver:
                for passing in self._held:
                    passing.forward()
            self._held.clear()
