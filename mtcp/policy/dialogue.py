"""Whether a client waits for its server, guessed from the bytes that went either way."""

from __future__ import annotations

from mtcp.policy.base import View


class Dialogue:
    """Follows a connection's views.

    A server that is silent looks like one that has said all. The client surely waits when its own last bytes, a
    request, are younger than the last data. Otherwise nobody outside the application can tell, unless it says so
    (View.waiting).
    """

    def __init__(self, view: View) -> None:
        self.heard_at = view.now
        """When data came last."""
        self._asked_at = view.now
        self.waiting = False
        """Whether the client is known to wait."""

    def follow(self, last: View, view: View) -> None:
        """Take the next view."""
        if view.received > last.received:
            self.heard_at = view.now
        if view.sent > last.sent:
            self._asked_at = view.now
        self.waiting = self._asked_at > self.heard_at if view.waiting is None else view.waiting
