"""The servers know best: the client does as their hints say, and nothing of its own accord."""

from __future__ import annotations

from mtcp.address import Endpoint
from mtcp.policy.base import Policy, View
from mtcp.policy.choice import choose
from mtcp.wire.options import Hint


class Hints(Policy):
    """Moves when a server asks to be left.

    It goes to the server that the hint prefers; if none is named or known, to the best or any other.

    Source: the M-TCP papers' second initiator, a server that asks to be left. It is as good as the servers' own
    detection (`load`, `attack`, an operator's `mtcp hint` or `mtcp drain`).
    """

    def hinted(self, view: View, hint: Hint) -> Endpoint | None:
        return hint.preferred if hint.preferred in view.others else choose(view)
