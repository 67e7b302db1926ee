"""The new server's role, told what happens and asked what it did."""

from __future__ import annotations

import pytest

from mtcp.errors import Reason, RemoteProtocolError
from mtcp.roles.machine import FIRST_RETRY
from mtcp.states import NewServer
from mtcp.wire.frames import Done, DoneAck, Query, Release, StateReject
from mtcp.wire.options import Abort, Ack3, Refusal, Reject
from tests.unit.role_hosts import ACCEPT, ACK3, KEY, OLD, REPLY_FRAME, REQUEST, S1, TAG, new_server, restored, run_timer

pytestmark = pytest.mark.unit
DONE = (S1, Done(OLD, 1, TAG))
ABORT = Abort(1).signed(KEY).mac
REFUSAL, RELEASE = Refusal(1, ABORT).signed(KEY), (S1, Release(OLD, 1, TAG, ABORT))
DONE_ACK, QUERY = DoneAck(OLD, 1, TAG), Query(OLD, 1, TAG)


def test_it_takes() -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    role.on_frame(QUERY, 0.1)  # the reply is under way
    role.on_frame(REPLY_FRAME, 0.1)
    assert host.take() == [(S1, REQUEST), "restore", ACCEPT]
    role.on_migrate_syn(0.2)  # the client repeats: it has not heard ACCEPT
    role.on_frame(REPLY_FRAME, 0.2)
    role.on_frame(QUERY, 0.2)  # only the client can know
    assert host.take() == [ACCEPT]
    role.on_ack3(ACK3, 0.3)
    role.on_ack3(ACK3, 0.3)
    assert host.take() == [DONE]
    run_timer(role, 0.3 + FIRST_RETRY)
    assert host.take() == [DONE]
    role.on_frame(DONE_ACK, 0.6)
    role.on_frame(DONE_ACK, 0.6)
    assert (role.state, role.deadline) == (NewServer.OWNED, None)
    role.on_migrate_syn(0.7)
    assert host.take() == [ACCEPT]


def test_it_repeats_its_request() -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    run_timer(role, 9.9)
    assert host.did.count((S1, REQUEST)) == len(host.take()) > 8
    run_timer(role, 10.0)
    assert (host.take(), role.state) == ([Reject(1, Reason.UNREACHABLE, TAG)], NewServer.FAILED)


def test_an_old_server_that_cannot_be_reached_is_told_once_it_asks() -> None:
    role, host = restored()
    role.on_ack3(ACK3, 0.2)
    run_timer(role, 10.1)
    assert role.state is NewServer.CONFIRMING
    run_timer(role, 10.2)
    assert (role.state, role.deadline) == (NewServer.OWNED, None)
    host.take()
    role.on_frame(QUERY, 30.0)
    assert host.take() == [DONE]


def test_confirming_it_answers_a_query_at_once() -> None:
    role, host = restored()
    role.on_ack3(ACK3, 0.2)
    host.take()
    role.on_frame(QUERY, 0.2)
    assert (host.take(), role.state) == ([DONE], NewServer.CONFIRMING)


def test_traffic_is_as_good_as_ack3() -> None:
    role, host = restored()
    role.on_traffic(0.2)
    role.on_traffic(0.3)
    assert host.take() == [DONE]


def test_it_lets_go_of_what_nobody_commits_to_within_the_lease() -> None:
    role, host = restored()
    run_timer(role, 60.0)
    assert set(host.take()) == {ACCEPT}
    run_timer(role, 60.1)
    assert (host.take(), role.state, role.deadline) == (["discard"], NewServer.FAILED, None)
    with pytest.raises(RemoteProtocolError):
        role.on_frame(DONE_ACK, 61.0)
    for frame in (REPLY_FRAME, QUERY, StateReject(OLD, 1, TAG, Reason.BUSY)):
        role.on_frame(frame, 61.0)
    role.on_ack3(ACK3, 61.0)
    role.superseded(61.0)
    assert (host.take(), role.state) == ([], NewServer.FAILED)
    role.on_migrate_syn(62.0)
    assert host.take() == [Reject(1, Reason.UNREACHABLE, TAG)]


def test_it_lets_go_of_what_the_client_has_given_up() -> None:
    role, host = restored()
    for forged in (Refusal(1), Refusal(2).signed(KEY), Refusal(1, ABORT), Refusal(1, ABORT, REFUSAL.mac[::-1])):
        with pytest.raises(RemoteProtocolError, match="wrong MAC"):
            role.on_refusal(forged, 0.1)
    role.on_refusal(REFUSAL, 0.1)
    role.on_refusal(REFUSAL, 0.2)
    assert (host.take(), role.state, role.deadline) == (["discard", RELEASE, RELEASE], NewServer.FAILED, None)
    role.on_refusal(Refusal(1).signed(KEY), 0.2)  # an answer that says less takes nothing back
    assert host.take() == [RELEASE]
    role.on_frame(QUERY, 0.3)
    role.on_frame(REPLY_FRAME, 0.3)
    role.on_ack3(ACK3, 0.4)
    assert (host.take(), role.state) == ([RELEASE], NewServer.FAILED)


def test_what_is_over_is_let_go_of_without_a_word_to_the_old_server() -> None:
    """The client may have been here and left: then it does not say that it gave up."""
    role, host = restored()
    role.on_refusal(Refusal(1).signed(KEY), 0.1)
    role.on_frame(QUERY, 0.2)
    assert (host.take(), role.state) == (["discard"], NewServer.FAILED)


def test_an_agent_that_begins_anew_goes_on_with_what_was_restored() -> None:
    for outcome in ("ack3", "refusal", "traffic", "nothing"):
        role, host = new_server()
        role.recover(KEY, 10.0)
        assert (host.take(), role.state) == ([ACCEPT], NewServer.RESTORED)
        with pytest.raises(RemoteProtocolError, match="wrong MAC"):
            role.on_ack3(Ack3(1), 10.1)
        role.on_migrate_syn(10.1)
        assert host.take() == [ACCEPT]
        match outcome:
            case "ack3":
                role.on_ack3(ACK3, 10.2)
                assert host.take() == [DONE]
            case "traffic":
                role.on_traffic(10.2)
                assert host.take() == [DONE]
            case "refusal":
                role.on_refusal(REFUSAL, 10.2)
                assert host.take() == ["discard", RELEASE]
            case _:
                run_timer(role, 70.0)
                assert host.take()[-1] == "discard" and role.state is NewServer.FAILED


def test_a_refusal_means_nothing_before_there_is_a_key_or_after_the_commit() -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    host.take()
    with pytest.raises(RemoteProtocolError):
        role.on_refusal(REFUSAL, 0.1)
    assert (host.take(), role.state) == ([], NewServer.REQUESTED)
    role, host = restored()
    role.on_traffic(0.2)
    host.take()
    with pytest.raises(RemoteProtocolError):
        role.on_refusal(REFUSAL, 0.3)
    assert (host.take(), role.state) == ([], NewServer.CONFIRMING)


def test_a_later_attempt_supersedes_it() -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    host.take()
    role.superseded(0.1)
    assert (host.take(), role.state, role.deadline) == ([], NewServer.FAILED, None)
    role.on_frame(REPLY_FRAME, 0.2)  # late: nothing may be made of it
    assert host.take() == []

    role, host = restored()
    role.superseded(0.2)
    assert (host.take(), role.state, role.deadline) == (["discard"], NewServer.FAILED, None)

    role, host = restored()
    role.on_traffic(0.2)
    role.superseded(0.3)
    role.on_frame(DONE_ACK, 0.4)
    role.superseded(0.5)
    assert (host.take(), role.state) == ([DONE], NewServer.OWNED)


@pytest.mark.parametrize("reason", Reason)
def test_it_passes_the_reason_on(reason: Reason) -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    host.take()
    for _ in range(2):
        role.on_frame(StateReject(OLD, 1, TAG, reason), 0.1)
    role.on_migrate_syn(0.2)
    assert host.take() == [Reject(1, reason, TAG)] * 2
    assert (role.state, role.deadline) == (NewServer.FAILED, None)


def test_it_has_no_application() -> None:
    role, host = new_server()
    host.application = False
    role.on_migrate_syn(0.0)
    assert host.take() == [Reject(1, Reason.NO_APPLICATION, TAG)]
    assert role.state is NewServer.FAILED


def test_it_cannot_restore() -> None:
    """The client hears so, and lets the old server go on: another agent of this host may have sent ACCEPT before."""
    role, host = new_server()
    host.restore_fails = OSError("no")
    role.on_migrate_syn(0.0)
    role.on_frame(REPLY_FRAME, 0.1)
    assert host.take()[1:] == ["restore", Reject(1, Reason.RESTORE_FAILED, TAG)]
    assert (role.state, role.deadline) == (NewServer.FAILED, None)


def test_what_is_forged_or_stale_is_dropped() -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    host.take()
    with pytest.raises(RemoteProtocolError):
        role.on_ack3(ACK3, 0.1)  # before there is a key to check it with
    role.on_traffic(0.1)
    assert (host.take(), role.state) == ([], NewServer.REQUESTED)
    role, host = restored()
    for forged in (Ack3(1), Ack3(2).signed(KEY), Ack3(1).signed(b"8 bytes?"), Ack3(1, Abort(1).signed(KEY).mac)):
        with pytest.raises(RemoteProtocolError, match="wrong MAC"):
            role.on_ack3(forged, 0.2)
    with pytest.raises(RemoteProtocolError, match="DONE_ACK cannot happen in state RESTORED"):
        role.on_frame(DONE_ACK, 0.2)
    assert (host.take(), role.state) == ([], NewServer.RESTORED)


def test_it_keeps_nothing_of_what_it_has_handed_over() -> None:
    assert REPLY_FRAME.reply != REPLY_FRAME.reply.without_data()
    role, host = restored()
    assert role.reply == REPLY_FRAME.reply.without_data()
    role.on_migrate_syn(0.2)
    assert host.take() == [ACCEPT]
