"""The client's role, told what happens and asked what it did."""

from __future__ import annotations

import pytest

from mtcp.address import Endpoint
from mtcp.errors import LocalProtocolError, Reason, RemoteProtocolError
from mtcp.roles.machine import FIRST_RETRY
from mtcp.states import Client
from mtcp.wire.options import Abort, AbortAck, Accept, Ack3, AnyOption, Migrate, Query, Refusal, Reject
from tests.unit.role_hosts import ACCEPT, ACK3, KEY, MIGRATE, S1, S2, S3, TAG, C, client, run_timer

pytestmark = pytest.mark.unit
ABORT, REFUSAL = (S1, Abort(1).signed(KEY)), (S2, Refusal(1, Abort(1).signed(KEY).mac).signed(KEY))
REJECT = Reject(1, Reason.BUSY, TAG)


def test_it_moves() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    assert host.take() == ["begin", (S2, MIGRATE)]
    role.on_option(S2, ACCEPT, 0.1)
    assert host.take() == []
    role.committed(0.1)
    assert host.take() == [(S2, ACK3), ("moved", S2, "")]
    assert (role.state, role.current, role.deadline) == (Client.TRACKED, S2, None)
    role.on_option(S2, ACCEPT, 0.2)  # our ACK3 was lost
    role.on_option(S2, REJECT, 0.2)  # of a late repetition of MIGRATE
    role.committed(0.2)
    assert host.take() == [(S2, ACK3)]


def test_it_moves_back_and_forth() -> None:
    role, host = client()
    for attempt, (here, there) in enumerate([(S1, S2), (S2, S1), (S1, S2)], 1):
        role.migrate(there, 0.0)
        migrate = Migrate(here, 100, attempt).signed(KEY, C, there)
        assert host.take() == ["begin", (there, migrate)]
        role.on_option(there, Accept(attempt).signed(KEY), 0.1)
        role.committed(0.1)
        assert host.take()[-1] == ("moved", there, "")
        # Late, of the attempt by which it came where it is no longer.
        role.on_option(here, Accept(attempt - 1).signed(KEY), 0.2)
        assert host.take() == [(here, Refusal(attempt - 1).signed(KEY))]


def test_a_move_that_the_mapping_refuses_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    role, host = client()

    def refuse(server: Endpoint) -> None:
        raise LocalProtocolError("another connection has this port")

    with monkeypatch.context() as patched, pytest.raises(LocalProtocolError, match="port"):
        patched.setattr(host, "begin_mapping", refuse)
        role.migrate(S2, 0.0)
    assert (role.state, role.deadline) == (Client.TRACKED, None)
    role.migrate(S3, 0.1)
    assert (role.state, role.target) == (Client.SS_ISMIGRATING, S3)


def test_a_server_that_has_not_heard_of_the_commit_is_told_even_while_it_is_left() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    role.committed(0.1)
    role.migrate(S3, 0.2)
    host.take()
    role.on_option(S2, ACCEPT, 0.3)
    assert (host.take(), role.state) == ([(S2, ACK3)], Client.SS_ISMIGRATING)


def test_it_repeats_and_gives_up() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    host.take()
    run_timer(role, 4.9)
    assert host.did.count((S2, MIGRATE)) == len(host.take()) > 4
    run_timer(role, 5.0)
    assert host.take() == ["abort mapping", ABORT, REFUSAL]
    run_timer(role, 5.0 + FIRST_RETRY)
    assert host.take() == [ABORT]
    role.on_option(S2, REJECT, 5.9)
    role.on_option(S1, AbortAck(1).signed(KEY), 6.0)
    role.on_option(S1, AbortAck(1).signed(KEY), 6.1)
    [(kept, server, reason)] = host.take()
    assert (kept, server) == ("kept", S2) and "no answer" in reason
    assert (role.state, role.deadline, role.current) == (Client.TRACKED, None, S1)


def test_it_stops_telling_a_server_that_never_confirms_but_answers_when_that_asks() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    run_timer(role, 100.0)
    assert (role.state, role.deadline) == (Client.TRACKED, None)
    host.take()
    role.on_option(S1, Query(1).signed(KEY), 101.0)
    assert host.take() == [ABORT]


@pytest.mark.parametrize("reason", Reason)
def test_it_is_rejected(reason: Reason) -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    host.take()
    role.on_option(S2, Reject(1, reason, TAG), 0.1)
    assert host.take() == ["abort mapping", ABORT, REFUSAL]
    role.on_option(S1, AbortAck(1).signed(KEY), 0.2)
    assert host.take() == [("kept", S2, f"{reason.name}: {reason.advice}")]


def test_a_commit_that_an_abort_finds_out_wins() -> None:
    """And the mapping's event, which comes later, is no second commit."""
    role, host = client()
    role.migrate(S2, 0.0)
    host.committed = True
    host.take()
    role.on_option(S2, REJECT, 0.1)
    assert host.take() == ["abort mapping", (S2, ACK3), ("moved", S2, "")]
    role.committed(0.2)
    assert (host.take(), role.current, role.deadline) == ([], S2, None)


def test_an_attempt_that_was_given_up_is_refused_and_gets_no_ack3() -> None:
    """ACK3 would make S2 an owner beside S1."""
    role, host = client()
    role.migrate(S2, 0.0)
    role.on_option(S2, REJECT, 0.1)
    host.take()
    role.on_option(S2, ACCEPT, 0.1)
    assert host.take() == [REFUSAL]
    role.on_option(S1, AbortAck(1).signed(KEY), 0.2)
    host.take()
    role.on_option(S2, ACCEPT, 0.3)
    assert host.take() == [REFUSAL]
    role.migrate(S2, 0.4)
    host.take()
    role.on_option(S2, ACCEPT, 0.5)
    assert (host.take(), role.state) == ([(S2, Refusal(1).signed(KEY))], Client.SS_ISMIGRATING)


def test_only_the_old_server_confirms_an_abort() -> None:
    role, _ = client()
    role.migrate(S2, 0.0)
    role.on_option(S2, REJECT, 0.1)
    with pytest.raises(RemoteProtocolError):
        role.on_option(S2, AbortAck(1).signed(KEY), 0.2)
    with pytest.raises(LocalProtocolError):
        role.migrate(S2, 0.3)
    assert role.state is Client.ABORTING


# -- servers ask


def query(attempt: int) -> Query:
    return Query(attempt).signed(KEY)


def test_a_server_asks_before_it_is_decided() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    host.take()
    role.on_option(S1, query(1), 0.1)
    assert (host.take(), role.state) == ([], Client.SS_ISMIGRATING)


def test_a_server_that_has_lost_the_connection_asks() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    role.committed(0.1)
    host.take()
    role.on_option(S1, query(1), 0.2)
    refusal = (S1, Refusal(1).signed(KEY))
    assert host.take() == [refusal]
    role.closed(0.3)
    role.on_option(S1, query(1), 0.4)
    assert (host.take(), role.state) == ([refusal], Client.GONE)


def test_a_server_that_keeps_the_connection_asks() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    role.on_option(S2, REJECT, 0.1)
    host.take()
    role.on_option(S1, query(1), 0.2)
    assert (host.take(), role.state) == ([ABORT], Client.ABORTING)
    role.on_option(S1, AbortAck(1).signed(KEY), 0.3)
    role.migrate(S2, 0.4)
    host.take()
    role.on_option(S1, query(1), 0.5)  # of the attempt before: that one is decided
    assert host.take() == [ABORT]
    role.on_option(S1, query(2), 0.6)
    assert host.take() == []


def test_a_server_whose_agent_began_anew_asks() -> None:
    role, host = client()
    role.on_option(S1, query(0), 0.1)
    assert host.take() == [(S1, Abort(0).signed(KEY))]
    role.migrate(S2, 0.2)
    host.take()
    role.on_option(S1, query(0), 0.3)  # where it is now
    role.on_option(S2, query(1), 0.3)  # where it may come to be
    role.on_option(S3, query(1), 0.3)  # where it never was
    assert host.take() == [(S1, Abort(0).signed(KEY)), (S3, Refusal(1).signed(KEY))]
    run_timer(role, 5.2)
    host.take()
    role.on_option(S2, query(1), 5.3)
    assert host.take() == [REFUSAL]


# -- the agent begins anew


def test_recovery_from_no_move() -> None:
    role, host = client()
    role.recover(None, 4, 0.0)
    assert (host.take(), role.state, role.attempt) == ([], Client.TRACKED, 4)
    role.on_option(S1, Accept(4).signed(KEY), 0.1)  # the ACK3 was lost with the agent before
    assert host.take() == [(S1, Ack3(4).signed(KEY))]
    role.on_option(S1, Accept(2).signed(KEY), 0.1)  # and since then it has tried in vain to leave
    assert host.take() == [(S1, Ack3(2).signed(KEY))]
    role.on_option(S2, Accept(3).signed(KEY), 0.1)
    assert host.take() == [(S2, Refusal(3).signed(KEY))]


def test_recovery_in_the_middle_of_a_move_ends_it() -> None:
    role, host = client()
    role.recover(S2, 1, 0.0)
    assert host.take() == ["abort mapping", ABORT, REFUSAL]
    assert role.state is Client.ABORTING and role.deadline is not None
    role.on_option(S1, AbortAck(1).signed(KEY), 0.1)
    [(kept, server, reason)] = host.take()
    assert (kept, server) == ("kept", S2) and "agent ended" in reason


def test_recovery_finds_a_commit() -> None:
    role, host = client()
    host.committed = True
    role.recover(S2, 1, 0.0)
    assert host.take() == ["abort mapping", (S2, ACK3), ("moved", S2, "")]
    assert (role.state, role.current, role.deadline) == (Client.TRACKED, S2, None)


# -- the socket goes


def closing(committed: bool) -> tuple[list[object], Client]:
    role, host = client()
    role.migrate(S2, 0.0)
    host.committed = committed
    host.take()
    role.closed(0.1)
    assert role.deadline is None
    return host.take(), Client[role.state.name]


def test_closed_in_the_middle_of_a_move() -> None:
    (mapping, told, refused, (kept, server, reason)), state = closing(committed=False)  # type: ignore[misc]
    assert (mapping, told, refused, kept, server) == ("abort mapping", ABORT, REFUSAL, "kept", S2)
    assert "closed" in reason and state is Client.GONE


def test_closed_when_the_mapping_had_committed() -> None:
    assert closing(committed=True) == (["abort mapping", (S2, ACK3), ("moved", S2, "")], Client.GONE)


def test_closed_while_aborting() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    role.on_option(S2, REJECT, 0.1)
    role.closed(0.2)
    assert (role.state, role.deadline) == (Client.GONE, None)
    host.take()
    role.on_option(S1, AbortAck(1).signed(KEY), 0.3)
    role.on_option(S2, REJECT, 0.3)
    assert host.take() == []
    role.on_option(S2, ACCEPT, 0.4)
    role.on_option(S1, query(1), 0.4)
    assert host.take() == [REFUSAL, ABORT]


# -- what means nothing


@pytest.mark.parametrize(
    ("server", "option"),
    [
        (S2, Accept(1)),
        (S2, Accept(2, ACCEPT.mac)),
        (S2, Accept(1, ACK3.mac)),
        (S1, Query(1)),
        (S2, Reject(2, Reason.BUSY, TAG)),
        (S1, Reject(1, Reason.BUSY, TAG)),
        (S2, Reject(1, Reason.BUSY, bytes(8))),
        (S1, AbortAck(1)),
        (S1, AbortAck(2).signed(KEY)),
        (S1, AbortAck(1).signed(KEY)),
        (S2, MIGRATE),
        (S2, ACK3),
    ],
)
def test_what_is_forged_or_stale_is_dropped(server: Endpoint, option: AnyOption) -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    host.take()
    with pytest.raises(RemoteProtocolError):
        role.on_option(server, option, 0.1)
    assert (host.take(), role.state) == ([], Client.SS_ISMIGRATING)


def test_a_reject_before_any_move() -> None:
    role, host = client()
    role.recover(S2, 1, 0.0)
    host.take()
    with pytest.raises(RemoteProtocolError, match="not asked"):
        role.on_option(S2, REJECT, 0.1)
    assert host.take() == []


def test_senseless_moves() -> None:
    role, host = client()
    with pytest.raises(LocalProtocolError, match="already"):
        role.migrate(S1, 0.0)
    role.migrate(S2, 0.0)
    host.take()
    with pytest.raises(LocalProtocolError):
        role.migrate(S3, 0.0)
    assert (host.take(), role.target) == ([], S2)
