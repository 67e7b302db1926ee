"""The server's agent and its policies: whom it asks to leave, and where to; on a host made up for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import pytest

from mtcp.address import Endpoint, FourTuple
from mtcp.agent.advising import Advisor, HostWatch
from mtcp.agent.server import ServerSide
from mtcp.policy import HostView, ServerPolicy
from mtcp.states import OldServer
from mtcp.wire.options import HintReason

pytestmark = pytest.mark.unit
SERVER = Endpoint("10.0.0.1", 80)


@dataclass
class Role:
    state: OldServer = OldServer.ESTABLISHED


@dataclass(eq=False)
class Connection:
    port: int
    moves: int = 0
    role: Role = field(default_factory=Role)
    hinted: list[tuple[HintReason, Endpoint | None, float]] = field(default_factory=list)

    @property
    def four_tuple(self) -> FourTuple:
        return FourTuple(SERVER, Endpoint("10.0.0.100", self.port))

    def hint(self, reason: HintReason, preferred: Endpoint | None, now: float) -> None:
        self.hinted.append((reason, preferred, now))


@dataclass
class Other:
    name: str

    def place_of(self, local: Endpoint) -> Endpoint:
        return Endpoint(f"10.0.0.{self.name[1:]}", local.port)


class Side:
    """Of a server of three."""

    def __init__(self, count: int) -> None:
        self.here = [Connection(port) for port in range(1, count + 1)]
        self.others = [Other("s2"), Other("s3")]
        self.reached = {"s2": True, "s3": True}
        self.control = self

    def connections(self) -> list[Connection]:
        return list(self.here)

    def status(self) -> dict[str, bool]:
        return self.reached

    def pids(self) -> set[int]:
        return set()


class Watch:
    def view(self, pids: set[int], now: float) -> HostView:
        return HostView(now)


class Asks(ServerPolicy):
    """So many each time."""

    reason = HintReason.OVERLOAD
    holdoff = 5.0

    def __init__(self, count: int) -> None:
        self.count = count

    def observe(self, view: HostView) -> int:
        return self.count


def advisor(side: Side, count: int) -> Advisor:
    return Advisor(cast(ServerSide, side), Asks(count), cast(HostWatch, Watch()))


def asked(side: Side) -> list[int]:
    return [connection.port for connection in side.here for _ in connection.hinted]


def test_each_is_asked_in_its_turn_and_then_left_in_peace() -> None:
    side = Side(5)
    advising = advisor(side, 2)
    advising.on_timer(1.0)
    assert asked(side) == [1, 2] and advising.deadline == 1.0 + ServerPolicy.interval
    advising.on_timer(1.05)
    assert asked(side) == [1, 2]
    for now in (1.2, 1.4, 1.6, 5.9):
        advising.on_timer(now)
    assert asked(side) == [1, 2, 3, 4, 5]
    advising.on_timer(6.1)
    assert asked(side) == [1, 1, 2, 2, 3, 4, 5]


def test_between_two_servers_in_trouble_a_connection_moves_once_in_a_holdoff() -> None:
    sides = [Side(0), Side(0)]
    advising = [advisor(side, 10) for side in sides]
    connection, at, moves = Connection(1), 0, []
    sides[0].here = [connection]
    for tick in range(600):
        now = tick * 0.1
        for each in advising:
            each.on_timer(now)
        if connection.hinted:
            # A client that does as it is told, and arrives as another connection.
            connection, at = Connection(1, moves=connection.moves + 1), 1 - at
            sides[at].here, sides[1 - at].here = [connection], []
            moves.append(now)
    gaps = [b - a for a, b in pairwise(moves)]
    assert 10 <= len(moves) <= 13 and min(gaps) >= Asks.holdoff


def test_who_is_leaving_already_is_not_asked() -> None:
    side = Side(2)
    side.here[0].role.state = OldServer.FENCED
    advisor(side, 10).on_timer(1.0)
    assert asked(side) == [2]


@pytest.mark.parametrize(
    ("reached", "preferred"),
    [
        ({"s2": True, "s3": True}, {None}),
        ({"s2": False, "s3": True}, {"10.0.0.3"}),
        ({"s2": False, "s3": False}, set()),
    ],
)
def test_servers_that_cannot_be_reached_are_not_named(reached: dict[str, bool], preferred: set[Any]) -> None:
    side = Side(3)
    side.reached = reached
    advisor(side, 10).on_timer(1.0)
    hints = [hint for connection in side.here for hint in connection.hinted]
    assert {server.ip if server else None for _, server, _ in hints} == preferred
    assert {reason for reason, *_ in hints} <= {HintReason.OVERLOAD}
