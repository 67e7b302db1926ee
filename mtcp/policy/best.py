"""The client goes to the server that is best, also where the one that it has is good enough."""

from __future__ import annotations

from mtcp.address import Endpoint
from mtcp.policy.base import View
from mtcp.policy.choice import choose, cost
from mtcp.policy.detector import Detector


class Best(Detector):
    """Moves when another server is better, by what probes and hints tell.

    That is: when for `patience` seconds it was so by `margin` of its cost, and by `least` seconds.
    The cost is the round-trip time of probes, smoothed, and the load that a server has told of (mtcp.policy.choice).
    `holdoff`: Detector's.

    Source: "best" server selection by probed round-trip time is Crovella's and Carter's ("Dynamic Server Selection in
    the Internet", 1995), margin and hold-off against going back and forth are those of handover in radio networks.

    A client's own data may fill its bottleneck's queue, which doubles the round-trip time where that is as deep as such
    queues should be: a `margin` below 1 takes that for distance.

    It errs where probes (ICMP echo, answered by the kernel) are better off than the service: an overloaded server that
    has no policy `load` looks good.
    """

    interval = 0.1
    wants_probes = True

    def __init__(self, margin: float = 1.0, least: float = 0.01, patience: float = 1.0, holdoff: float = 10.0) -> None:
        """ValueError when a parameter makes no sense."""
        super().__init__(holdoff)
        if margin < 0 or least < 0 or patience < 0:
            raise ValueError("best needs margin >= 0, least >= 0 and patience >= 0")
        self._margin, self._least, self._patience = margin, least, patience

    def begin(self, view: View) -> None:
        self._worse_since: float | None = None

    def suffers(self, last: View, view: View) -> bool:
        if self._is_worse(view, self.where(view)):
            self._worse_since = view.now if self._worse_since is None else self._worse_since
        else:
            self._worse_since = None
        return self._worse_since is not None and view.now - self._worse_since >= self._patience

    def where(self, view: View) -> Endpoint | None:
        probed = tuple(server for server in view.others if view.known(server).rtt is not None)
        return choose(view, probed)

    def _is_worse(self, view: View, than: Endpoint | None) -> bool:
        mine, other = (None if server is None else cost(view.known(server)) for server in (view.current, than))
        if mine is None or other is None or other == float("inf"):
            return False
        return mine > other * (1 + self._margin) + self._least
