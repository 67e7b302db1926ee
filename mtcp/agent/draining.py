"""Draining: a server asks the clients of all its connections to leave, and reports which stayed and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from mtcp.pool import Server
from mtcp.states import OldServer
from mtcp.wire.options import HintAnswer, HintReason

if TYPE_CHECKING:
    from mtcp.agent.holding import ServerConnection
    from mtcp.agent.server import ServerSide

AT_ONCE = 32
"""Connections that are asked and still here. A client that moves hears nothing meanwhile: so those that cannot be
fetched yet had better not begin."""
UNANSWERED, UNMOVED = 0.25, 1.0
"""Seconds after which one that does not answer, or that is to move and does not, keeps no other waiting any longer."""
ASK_AGAIN = 2.0
"""Seconds after which a client that wanted to move, or could not just then, is asked again."""
NAMED = 1000
"""How many of those that stayed are named in the report: it has to fit into one packet."""
_WHY = {
    None: "its client does not answer; does an mtcp agent run there?",
    HintAnswer.WILL_MOVE: "its client tried to move it, and it stayed",
    HintAnswer.DECLINED: "its client's policy declines hints",
    HintAnswer.NOWHERE: "its client knows no other server",
    HintAnswer.NOT_NOW: "its client was busy with another move",
}
Report = Callable[[dict[str, Any]], None]


class Drain:
    """One drain under way: begun by `mtcp drain`, over when all have left or its time is up."""

    def __init__(self, side: ServerSide, targets: Sequence[Server], deadline: float, report: Report) -> None:
        """`targets`: servers to which to send them in turn; empty: wherever the clients like."""
        self.deadline = deadline
        self._side = side
        self._targets = cycle(targets or [None])
        self._report = report
        self._asked: dict[ServerConnection, float] = {}
        """When each was asked last."""

    def on_timer(self, now: float) -> bool:
        """Ask whoever has to be; whether it is over. Also when one has left: then there is room for the next."""
        here = [c for c in self._side.connections() if c.role.state in (OldServer.ESTABLISHED, OldServer.FENCED)]
        room = AT_ONCE - sum(self._is_moving(connection, now) for connection in here)
        for connection in here:
            if room > 0 and self._is_to_be_asked(connection, now):
                self._ask(connection, now)
                room -= 1
        if here and now < self.deadline:
            return False
        why = [{"connection": str(c.four_tuple.remote), "why": _why(c)} for c in here[:NAMED]]
        self._report({"moved": sum(c.has_left for c in self._asked), "stayed": len(here), "why": why})
        return True

    def _is_moving(self, connection: ServerConnection, now: float) -> bool:
        answer, asked = connection.hints.answer, self._asked.get(connection)
        if asked is None or answer not in (None, HintAnswer.WILL_MOVE):
            return False
        return now < asked + (UNANSWERED if answer is None else UNMOVED)

    def _is_to_be_asked(self, connection: ServerConnection, now: float) -> bool:
        asked = self._asked.get(connection)
        again = connection.hints.answer in (HintAnswer.WILL_MOVE, HintAnswer.NOT_NOW)
        return asked is None or (again and now >= asked + ASK_AGAIN)

    def _ask(self, connection: ServerConnection, now: float) -> None:
        self._asked[connection] = now
        target = next(self._targets)
        preferred = target.place_of(connection.four_tuple.local) if target else None
        connection.hint(HintReason.DRAIN, preferred, now)


def _why(connection: ServerConnection) -> str:
    if connection.role.state is OldServer.FENCED:
        return "it is on its way; `mtcp ls` shows what becomes of it"
    refused = connection.role.refused
    return f"this server refused to give it away: {refused.advice}" if refused else _WHY[connection.hints.answer]
