"""A policy that moves by the amount of data: to measure what moving costs."""

from __future__ import annotations

from mtcp.address import Endpoint
from mtcp.policy.base import Policy, View
from mtcp.policy.choice import choose


class Every(Policy):
    """Moves each time so many more bytes have come.

    `bytes`: as far as the client has acknowledged them. `at`: when it begins, seconds of CLOCK_MONOTONIC; what went
    before is the reference. Hints are declined.

    Source: the M-TCP papers' second figure, throughput over the amount of data between two migrations. The data that
    comes in up to `interval` is beyond `bytes`.
    """

    interval = 0.001

    def __init__(self, bytes: float, at: float = 0.0) -> None:
        """ValueError when `bytes` are less than one, or `at` is no time."""
        if not 1 <= bytes < float("inf") or not 0 <= at < float("inf"):
            raise ValueError("every needs bytes >= 1 and at >= 0")
        self._bytes, self._at = bytes, at
        self._from: int | None = None

    def observe(self, view: View) -> Endpoint | None:
        if view.now < self._at:
            return None
        if self._from is None:
            self._from = view.received
        if view.received - self._from < self._bytes or not view.others:
            return None
        self._from = view.received
        return choose(view)
