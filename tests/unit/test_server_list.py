"""The pool's list of servers, told and kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from mtcp.address import Endpoint
from mtcp.errors import RemoteProtocolError
from mtcp.roles.server_list import Announcement, KnownServers
from mtcp.wire.options import AddServers, AddServersAck

pytestmark = pytest.mark.unit
KEY = b"8 bytes!"
S = [Endpoint(f"10.0.0.{i}", 80) for i in range(1, 9)]
V6 = Endpoint("2001:db8::1", 80)


def segments(version: int, servers: list[Endpoint]) -> list[AddServers]:
    return [segment.signed(KEY) for segment in AddServers.split(version, servers)]


def test_complete_in_any_order_and_repeated() -> None:
    listed = [*S[1:6], V6]
    parts = segments(1, listed)
    assert len(parts) == 3
    for order in permutations(parts):
        known = KnownServers(KEY)
        for part in (*order[:-1], order[0]):
            assert known.add(part, S[0]) is None
            assert known.servers == []
        assert known.add(order[-1], S[0]) == AddServersAck(1).signed(KEY)
        assert known.servers == [*listed, S[0]]


def test_a_new_version_or_teller_replaces_the_list() -> None:
    known = KnownServers(KEY)
    known.add(segments(1, S[1:3])[0], S[0])
    known.add(segments(2, S[3:4])[0], S[0])
    assert known.servers == [S[3], S[0]]
    known.add(segments(2, S[4:5])[0], S[1])
    assert known.servers == [S[4], S[1]]


def test_halves_of_two_versions_make_no_list() -> None:
    known = KnownServers(KEY)
    assert known.add(segments(1, S[1:6])[0], S[0]) is None
    assert known.add(segments(2, S[1:6])[1], S[0]) is None
    assert known.servers == []


def test_an_empty_list_leaves_the_teller() -> None:
    known = KnownServers(KEY)
    assert known.add(segments(1, [])[0], S[0]) is not None
    assert known.servers == [S[0]]


def test_forged() -> None:
    known = KnownServers(KEY)
    for forged in (AddServers(1, 0, 1, (S[7],)), AddServers(1, 0, 1, (S[7],)).signed(b"8 bytes?")):
        with pytest.raises(RemoteProtocolError, match="wrong MAC"):
            known.add(forged, S[0])
    changed = replace(segments(1, S[1:2])[0], servers=(S[7],))
    with pytest.raises(RemoteProtocolError, match="wrong MAC"):
        known.add(changed, S[0])
    assert known.servers == []


def sent_at(announcement: Announcement, until: float) -> list[float]:
    """When something was sent, with the timer called at each deadline."""
    times = []
    while announcement.deadline is not None and announcement.deadline <= until:
        now = announcement.deadline
        assert not announcement.due(now - 0.001)
        if announcement.due(now):
            times.append(now)
    return times


def test_repeated_until_confirmed() -> None:
    announcement = Announcement(KEY, 1, S[1:6], 10.0)
    assert sent_at(announcement, 11.5) == pytest.approx([10.0, 10.2, 10.6, 11.4])
    announcement.confirm(AddServersAck(1).signed(KEY), 12.0)
    assert announcement.deadline is None and announcement.due(99.0) == []


def test_not_for_ever() -> None:
    assert len(sent_at(Announcement(KEY, 1, S[1:2], 0.0), 1000.0)) == Announcement.TIMES


def test_confirmations_that_are_none() -> None:
    announcement = Announcement(KEY, 2, S[1:2], 0.0)
    announcement.confirm(AddServersAck(1).signed(KEY), 12.0)
    assert announcement.deadline is not None
    with pytest.raises(RemoteProtocolError, match="wrong MAC"):
        announcement.confirm(AddServersAck(2), 12.0)
    assert announcement.deadline is not None


def test_what_is_announced_is_understood() -> None:
    known = KnownServers(KEY)
    answers = [known.add(segment, S[0]) for segment in Announcement(KEY, 1, S[1:8], 0.0).due(0.0)]
    assert answers[:-1] == [None, None] and isinstance(answers[-1], AddServersAck)
    assert known.servers == [*S[1:8], S[0]]


def test_a_client_without_a_list_asks_until_it_has_one() -> None:
    known, announcement = KnownServers(KEY), Announcement(KEY, 1, S[1:3], 0.0)
    announcement.confirm(AddServersAck(1).signed(KEY), 0.1)
    known.ask(5.0)
    asked = known.due(5.0)
    assert asked == AddServersAck(0).signed(KEY) and known.due(5.0) is None
    announcement.confirm(asked, 5.1)
    for segment in announcement.due(5.1):
        known.add(segment, S[0])
    assert (known.deadline, known.servers) == (None, [*S[1:3], S[0]])
    announcement.confirm(asked, 5.15)  # it is on its way already
    assert announcement.due(5.15) == []
