"""A policy that is told when to move: the bound on what any detector can do."""

from __future__ import annotations

from mtcp.address import Endpoint
from mtcp.policy.base import Policy, View
from mtcp.policy.choice import choose

AGAIN = 0.5
"""Seconds after which a move that has not come about is tried again."""


class Oracle(Policy):
    """Moves once, when it is told: at the time of the fault.

    `at`: that, in seconds of CLOCK_MONOTONIC; the experiment knows it. A connection that begins later stays where it
    is. Hints are declined. No source: no host can have it.
    """

    interval = 0.002

    def __init__(self, at: float) -> None:
        """ValueError when it is no time."""
        if not 0 <= at < float("inf"):
            raise ValueError("oracle needs at >= 0, seconds of CLOCK_MONOTONIC")
        self._at = at
        self._left: Endpoint | None = None
        self._next = at
        self._begun: float | None = None

    def observe(self, view: View) -> Endpoint | None:
        if self._begun is None:
            self._begun = view.now
        if self._begun > self._at or view.now < self._next:
            return None
        self._left = self._left or view.current
        target = choose(view)
        if view.current != self._left or target is None:
            return None
        self._next = view.now + AGAIN
        return target
