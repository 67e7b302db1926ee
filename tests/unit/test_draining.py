"""Draining: whom a server asks when. (That they move: tests/root/test_initiators.py.)"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mtcp.address import Endpoint, FourTuple
from mtcp.agent.draining import AT_ONCE, UNANSWERED, UNMOVED, Drain
from mtcp.states import OldServer
from mtcp.wire.options import HintAnswer, HintReason

SERVER = Endpoint("10.0.0.1", 80)


class Connection:
    """Of a server: its role, its hints, its client."""

    def __init__(self, port: int) -> None:
        self.four_tuple = FourTuple(SERVER, Endpoint("10.0.0.100", port))
        self.role = SimpleNamespace(state=OldServer.ESTABLISHED, refused=None)
        self.hints = SimpleNamespace(answer=None)
        self.asked: list[float] = []

    def hint(self, reason: HintReason, preferred: Endpoint | None, now: float) -> None:
        self.asked.append(now)
        self.hints.answer = None

    @property
    def has_left(self) -> bool:
        return self.role.state is OldServer.MIGRATED

    def leave(self) -> None:
        self.role.state = OldServer.MIGRATED


def drain(connections: list[Connection], seconds: float = 60.0) -> tuple[Drain, list[dict[str, Any]]]:
    side: Any = SimpleNamespace(connections=lambda: connections)
    reports: list[dict[str, Any]] = []
    return Drain(side, [], seconds, reports.append), reports


def test_only_so_many_are_on_their_way_at_a_time() -> None:
    connections = [Connection(port) for port in range(1000)]
    draining, reports = drain(connections)
    now = 0.0
    while not draining.on_timer(now):
        moving = [c for c in connections if c.asked and not c.has_left]
        assert len(moving) == min(AT_ONCE, sum(not c.has_left for c in connections))
        moving[0].hints.answer = HintAnswer.WILL_MOVE
        moving[0].leave()
        now += 0.001
    assert [len(c.asked) for c in connections] == [1] * 1000
    assert reports == [{"moved": 1000, "stayed": 0, "why": []}]


def test_those_that_do_not_answer_or_do_not_move_keep_no_other_waiting_for_long() -> None:
    connections = [Connection(port) for port in range(3 * AT_ONCE)]
    draining, _ = drain(connections)
    draining.on_timer(0.0)
    for connection in connections[: AT_ONCE // 2]:
        connection.hints.answer = HintAnswer.WILL_MOVE
    times = [UNANSWERED / 2, UNANSWERED, UNMOVED - 0.01, UNMOVED]
    asked = [(draining.on_timer(now), sum(bool(c.asked) for c in connections))[1] for now in times]
    assert asked == [AT_ONCE, AT_ONCE + AT_ONCE // 2, 2 * AT_ONCE, 2 * AT_ONCE + AT_ONCE // 2]


def test_who_declines_is_not_asked_again_and_who_was_busy_is() -> None:
    declining, busy = Connection(1), Connection(2)
    draining, reports = drain([declining, busy], seconds=10.0)
    for now in (0.0, 1.0, 2.5, 9.0):
        assert not draining.on_timer(now)
        declining.hints.answer, busy.hints.answer = HintAnswer.DECLINED, HintAnswer.NOT_NOW
    assert declining.asked == [0.0] and busy.asked == [0.0, 2.5, 9.0]
    assert draining.on_timer(10.0)
    (report,) = reports
    assert (report["moved"], report["stayed"]) == (0, 2)
