"""A message that is sent again and again until it is confirmed, or long enough."""

from __future__ import annotations

from mtcp.roles.machine import FIRST_RETRY, LAST_RETRY


class Repetition:
    """When to send: at once, then at intervals that double up to LAST_RETRY."""

    def __init__(self, times: int, now: float) -> None:
        """At most `times` sendings."""
        self.start(times, now)

    def start(self, times: int, now: float) -> None:
        """Once more from the beginning."""
        self.deadline: float | None = now
        """When to send next; None: no more."""
        self._left = times
        self._interval = FIRST_RETRY / 2

    def is_due(self, now: float) -> bool:
        """Whether to send now; if so, sets the next deadline."""
        if self.deadline is None or now < self.deadline:
            return False
        self._left -= 1
        self._interval = min(2 * self._interval, LAST_RETRY)
        self.deadline = now + self._interval if self._left else None
        return True

    def stop(self) -> None:
        """It is confirmed."""
        self.deadline = None
