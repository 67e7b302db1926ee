"""The servers know best: the client does as their hints say, and nothing of its own accord."""

from __future__ import annotations

from mtcp.address import Endpoint
from mtcp.policy.base import Policy, View
from mtcp.wire.options import Hint


class Hints(Policy):
    """Goes to the server that the hint prefers; if none is named or known, to one that the connections spread over."""

    def hinted(self, view: View, hint: Hint) -> Endpoint | None:
        if hint.preferred in view.others:
            return hint.preferred
        return view.others[view.received % len(view.others)] if view.others else None
