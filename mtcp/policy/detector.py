"""The base of policies that find out by themselves that a server is not good enough."""

from __future__ import annotations

from mtcp.address import Endpoint
from mtcp.policy.base import View
from mtcp.policy.choice import choose
from mtcp.policy.hints import Hints
from mtcp.wire.options import Hint, HintReason


class Detector(Hints):
    """Moves when the connection suffers, but not again within `holdoff` seconds, in which the new server may show what
    it can: so where all servers are bad, a connection moves at most once in that time. Hints are followed, too; within
    the hold-off only those of a drain, which the operator wants.

    A subclass says what suffering is, by `suffers`.
    """

    def __init__(self, holdoff: float) -> None:
        """ValueError when it is negative."""
        if holdoff < 0:
            raise ValueError("holdoff >= 0, seconds")
        self._holdoff = holdoff
        self._last: View | None = None
        self._quiet_until = float("-inf")

    def suffers(self, last: View, view: View) -> bool:
        """Whether to leave the server now; called for every view but the first, `last` is the one before."""
        raise NotImplementedError

    def begin(self, view: View) -> None:
        """A server has the connection from now on: what was seen of another one does not count against it."""

    def where(self, view: View) -> Endpoint | None:
        """Where to go."""
        return choose(view)

    def observe(self, view: View) -> Endpoint | None:
        last = self._last
        if last is not None and view.now <= last.now:
            return None
        self._last = view
        if last is None or view.current != last.current:
            if last is not None:
                self._quiet_until = view.now + self._holdoff
            self.begin(view)
            return None
        if not self.suffers(last, view) or view.now < self._quiet_until:
            return None
        server = self.where(view)
        if server is not None:
            # A move that fails is tried again, but not at once.
            self._quiet_until = view.now + self._holdoff
        return server

    def hinted(self, view: View, hint: Hint) -> Endpoint | None:
        if view.now < self._quiet_until and hint.reason is not HintReason.DRAIN:
            return None
        return super().hinted(view, hint)
