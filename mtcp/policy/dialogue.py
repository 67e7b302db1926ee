"""Whether a client waits for its server, guessed from the bytes that went either way."""

from __future__ import annotations

from mtcp.policy.base import View

NARROW = 0.25
"""A receive window of less than this share of the widest: the client's application does not read fast enough."""


class Dialogue:
    """Follows a connection's views.

    A server that is silent looks like one that has said all. The client surely waits when its own last bytes, a
    request, are younger than the last data, or when data has come that lacks what was before it. Otherwise nobody
    outside the application can tell, unless it says so (View.waiting).
    """

    def __init__(self, view: View) -> None:
        self.waiting = False
        """Whether the client is known to wait."""
        self.heard_at = view.now
        """When data came last that was the next to come."""
        self.asked_at = view.now
        """When the client sent anything new last."""
        self.full = False
        """Whether it is the client itself that lets nothing more come, or little."""
        self._complete = view.out_of_order
        """Segments out of order as of then."""

    def follow(self, last: View, view: View) -> None:
        """Take the next view."""
        if view.sent > last.sent:
            self.asked_at = view.now
        if view.received > last.received:
            self.heard_at, self._complete = view.now, view.out_of_order
        self.full = view.room is not None and view.room < NARROW
        if self.full:
            self.heard_at = view.now
        if view.waiting is not None:
            self.waiting = view.waiting
        else:
            self.waiting = not self.full and (self._asks(view) or self._lacks(view))

    @property
    def since(self) -> float:
        """For how long it has been so, while it waits: from this time on."""
        return max(self.asked_at, self.heard_at)

    def _asks(self, view: View) -> bool:
        if view.asked_at is not None and view.heard_at is not None and self.asked_at == self.heard_at:
            # Both since the view before: the kernel knows which came first.
            return view.asked_at > view.heard_at
        return self.asked_at > self.heard_at

    def _lacks(self, view: View) -> bool:
        return view.out_of_order is not None and self._complete is not None and view.out_of_order > self._complete
