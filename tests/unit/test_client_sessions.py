"""The client program's sessions: what they ask for after an error or a decision, and what they count."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from mtcp.address import Endpoint
from mtcp.policy import Policy, View
from testbed.clients.connections import Broken, Refused
from testbed.clients.record import Record
from testbed.clients.sessions import Resuming, Staying
from tests.unit.client_servers import CONTENT, HANG, PIECE, REFUSE, Servers

pytestmark = pytest.mark.unit


class Leaves(Policy):
    """Leaves a server for another one when so much has been received in all."""

    interval = 0.001

    def __init__(self, *marks: int) -> None:
        self._marks = list(marks)
        self.views: list[View] = []

    def observe(self, view: View) -> Endpoint | None:
        self.views.append(view)
        if self._marks and view.received >= self._marks[0]:
            self._marks.pop(0)
            return view.others[0]
        return None


def staying(servers: Servers) -> tuple[Staying, Record]:
    record = Record()
    return Staying(servers.addresses, servers.kind(), record), record


def resuming(servers: Servers, policy: Policy | None = None, **options: Any) -> tuple[Resuming, Record]:
    record = Record()
    return Resuming(servers.addresses, servers.kind(), record, policy or Policy(), **options), record


def run(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await act()

    asyncio.run(bounded())


def fetch(session: Staying, *span: int) -> None:
    async def act() -> None:
        async with session:
            await session.fetch("/file", *span)

    run(act)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def moves(record: Record) -> list[tuple[str, str, str]]:
    return [(each["from"], each["to"], each["why"]) for each in record.decisions]


def received(record: Record) -> str:
    """The hash that the client would write."""
    return record._sha256.hexdigest()


def expected(first: int = 0, end: int | None = None) -> str:
    return hashlib.sha256(CONTENT[first:end]).hexdigest()


def test_one_connection_gets_all() -> None:
    servers = Servers()
    session, record = staying(servers)
    fetch(session)
    assert (record.size, received(record)) == (len(CONTENT), expected())
    assert servers.opened == ["s1"] and servers.closed == 1
    assert [each["server"] for each in record.connections] == ["s1"]


def test_errors_are_final_for_who_stays() -> None:
    servers = Servers({"s1": [2000]})
    session, record = staying(servers)
    with pytest.raises(Broken):
        fetch(session)
    assert (record.size, received(record)) == (2000, expected(0, 2000)) and servers.opened == ["s1"]


def test_the_rest_is_asked_for_from_the_next_server_after_a_break() -> None:
    servers = Servers({"s1": [2000], "s2": [3000]})
    session, record = resuming(servers)
    fetch(session)
    assert servers.asked == [("s1", 0, None), ("s2", 2000, None), ("s3", 5000, None)]
    assert received(record) == expected()
    assert moves(record) == [("s1", "s2", "error"), ("s2", "s3", "error")]
    assert [each["server"] for each in record.connections] == ["s1", "s2", "s3"]
    by_server = Counter[str]()
    for each in record.deliveries:
        by_server[each.server] += each.bytes
    assert by_server == {"s1": 2000, "s2": 3000, "s3": 5000}


def test_the_rest_of_a_range_ends_where_the_range_does() -> None:
    servers = Servers({"s1": [700]})
    session, record = resuming(servers)
    fetch(session, 1000, 3000)
    assert servers.asked == [("s1", 1000, 3000), ("s2", 1700, 3000)]
    assert received(record) == expected(1000, 3000)


@pytest.mark.parametrize("fate", [2000, -2000], ids=["break", "silence"])
def test_nothing_more_is_asked_for_when_only_the_end_of_the_answer_lacks(fate: int) -> None:
    servers = Servers({"s1": [fate]})
    session, record = resuming(servers, Leaves(2000))
    fetch(session, 0, 2000)
    assert servers.asked == [("s1", 0, 2000)] and received(record) == expected(0, 2000)


def test_a_policy_leaves_a_silent_server_and_goes_on_from_the_last_byte() -> None:
    servers = Servers({"s1": [-2000]})
    session, record = resuming(servers, Leaves(2000))
    fetch(session)
    assert servers.asked == [("s1", 0, None), ("s2", 2000, None)]
    assert received(record) == expected() and moves(record) == [("s1", "s2", "policy")]
    assert servers.closed == 2


def test_a_policy_that_leaves_again_and_again_loses_nothing() -> None:
    servers = Servers({"s1": [-500, -700], "s2": [-900]})
    policy = Leaves(500, 1400, 2100)
    session, record = resuming(servers, policy)
    fetch(session)
    assert [name for name, _, _ in servers.asked] == ["s1", "s2", "s1", "s2"]
    assert received(record) == expected()


def test_a_policy_sees_all_connections_as_one() -> None:
    servers = Servers({"s1": [-2000], "s2": [-3000]})
    policy = Leaves(2000, 5000)
    session, _ = resuming(servers, policy)
    fetch(session)
    counts = [(view.received, view.sent) for view in policy.views]
    assert counts == sorted(counts) and (2000, 50) in counts and (5000, 100) in counts
    assert all(view.current not in view.others and len(view.others) == 2 for view in policy.views)


def test_a_policy_is_told_whether_the_application_waits() -> None:
    servers = Servers({"s1": [-2000]})
    policy = Leaves(2000)
    session, _ = resuming(servers, policy)

    async def act() -> None:
        async with session:
            await until(lambda: len(policy.views) > 2)
            await session.fetch("/file")
            asked = len(policy.views)
            await until(lambda: len(policy.views) > asked + 2)

    run(act)
    assert any(view.waiting for view in policy.views) and not policy.views[0].waiting and not policy.views[-1].waiting
    assert all(view.srtt is None for view in policy.views)


def test_a_policy_that_wants_it_is_told_what_the_kernel_knows() -> None:
    class Curious(Leaves):
        wants_kernel = True

    servers = Servers({"s1": [-2000]})
    policy = Curious(2000)
    session, _ = resuming(servers, policy)
    fetch(session)
    assert 0.02 in {view.srtt for view in policy.views if view.received == 2000}


def test_a_server_that_does_not_answer_is_passed_over() -> None:
    servers = Servers({"s1": [HANG]})
    session, record = resuming(servers, connect_timeout=0.05)
    fetch(session)
    assert servers.opened == ["s1", "s2"] and received(record) == expected()
    assert [each["server"] for each in record.connections] == ["s2"]


def test_a_policy_leaves_a_server_that_does_not_answer() -> None:
    servers = Servers({"s1": [HANG]})
    session, record = resuming(servers, Leaves(0))
    fetch(session)
    assert servers.opened == ["s1", "s2"] and moves(record) == [("s1", "s2", "policy")]
    assert servers.closed == 2


def test_it_gives_up_after_so_many_attempts_without_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.clients.sessions.RETRY_PAUSE", 0.001)
    servers = Servers({"s1": [500, *[REFUSE] * 9], "s2": [REFUSE] * 9, "s3": [0] * 9})
    session, record = resuming(servers, retries=4)
    with pytest.raises(Broken, match="s2 refuses"):
        fetch(session)
    # The first connection gave something: it is no attempt in vain, what follows it are.
    assert servers.opened == ["s1", "s2", "s3", "s1", "s2"] and record.size == 500


def test_attempts_that_bring_something_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testbed.clients.sessions.RETRY_PAUSE", 0.001)
    servers = Servers({name: [PIECE] * 9 for name in ("s1", "s2", "s3")})
    session, record = resuming(servers, retries=1)
    fetch(session)
    assert received(record) == expected()


def test_an_answer_that_is_of_no_use_is_final_for_all() -> None:
    for session, _ in (staying(Servers()), resuming(Servers())):
        with pytest.raises(Refused):
            fetch(session, len(CONTENT), len(CONTENT) + 1)


def test_between_requests_the_next_connection_is_made_ready() -> None:
    servers = Servers()
    policy = Leaves(1000)
    session, record = resuming(servers, policy)

    async def act() -> None:
        async with session:
            await session.fetch("/file", 0, 1000)
            await until(lambda: servers.opened == ["s1", "s2"])
            await session.fetch("/file", 1000, 2000)

    run(act)
    assert servers.asked == [("s1", 0, 1000), ("s2", 1000, 2000)] and servers.opened == ["s1", "s2"]
    assert received(record) == expected(0, 2000)


def test_the_operator_is_obeyed_also_while_a_connection_is_being_made() -> None:
    servers = Servers({"s1": [HANG], "s2": [HANG]})
    session, record = resuming(servers)

    async def act() -> None:
        async with session:
            fetching = asyncio.create_task(session.fetch("/file"))
            for count in (1, 2):
                await until(lambda count=count: len(servers.opened) == count)
                await session.move_on()
            await fetching

    run(act)
    assert moves(record) == [("s1", "s2", "operator"), ("s2", "s3", "operator")]
    assert servers.opened == ["s1", "s2", "s3"] and received(record) == expected()


def test_a_decision_while_another_one_is_carried_out_counts() -> None:
    """Idle, it makes a connection to s2 ready; meanwhile a fetch begins, and it is to go to s3."""
    servers = Servers({"s2": [HANG]})
    session, _ = resuming(servers, connect_timeout=0.2)

    async def act() -> None:
        async with session:
            await session.fetch("/file", 0, 1000)
            idle = asyncio.create_task(session.move("s2", "operator"))
            await until(lambda: servers.opened == ["s1", "s2"])
            fetching = asyncio.create_task(session.fetch("/file", 1000, 2000))
            await asyncio.sleep(0)
            await session.move("s3", "operator")
            await fetching
            await idle

    run(act)
    assert servers.asked == [("s1", 0, 1000), ("s3", 1000, 2000)]


def test_a_policy_that_fails_is_not_passed_over_in_silence() -> None:
    class Bad(Policy):
        interval = 0.001

        def observe(self, view: View) -> Endpoint | None:
            raise ZeroDivisionError

    servers = Servers({"s1": [-100]})
    session, _ = resuming(servers, Bad())

    async def act() -> None:
        async with session:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await session.fetch("/file")

    with pytest.raises(ZeroDivisionError):
        run(act)
