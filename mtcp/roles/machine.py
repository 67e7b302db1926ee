"""What the roles have in common: a table, a state, and a timer for repeating and giving up."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from mtcp.states import Action, Event, State, Table, step

FIRST_RETRY = 0.2
"""Seconds; every repetition doubles it, up to LAST_RETRY."""
LAST_RETRY = 1.0


class Machine:
    """Fires events through `table`; subclasses have one method per action, with the action's name in lower case.

    `deadline` is when `on_timer` wants to be called, seconds on the driver's clock, or None.
    """

    table: ClassVar[Table]
    retry_event: ClassVar[Event]
    give_up_event: ClassVar[Event]
    patience: ClassVar[float]
    """Seconds from start_timers to giving up."""
    lease: ClassVar[float] = 60.0
    """Seconds from start_lease to giving up: for states in which only the client can know what has happened."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.deadline: float | None = None
        self._interval = FIRST_RETRY
        self._give_up_at = 0.0

    def fire(self, event: Event, now: float) -> None:
        """Take the event: the next state first, then the actions, each of which may fire events of its own."""
        actions, self.state = step(self.table, self.state, event)
        for action in actions:
            self._method(action)(now)

    def on_timer(self, now: float) -> None:
        """Call when `deadline` has passed; harmless before."""
        if self.deadline is None or now < self.deadline:
            return
        if now >= self._give_up_at:
            self.deadline = None
            self.fire(self.give_up_event, now)
            return
        self._interval = min(2 * self._interval, LAST_RETRY)
        self.deadline = min(now + self._interval, self._give_up_at)
        self.fire(self.retry_event, now)

    def start_timers(self, now: float) -> None:
        self._start(now, self.patience)

    def start_lease(self, now: float) -> None:
        self._start(now, self.lease)

    def _start(self, now: float, seconds: float) -> None:
        self._interval = FIRST_RETRY
        self.deadline = now + FIRST_RETRY
        self._give_up_at = now + seconds

    def stop_timers(self, now: float) -> None:
        self.deadline = None

    def _method(self, action: Action) -> Callable[[float], None]:
        method: Callable[[float], None] = getattr(self, action.name.lower())
        return method
