"""The old server's role, told what happens and asked what it did; all three together are in tests/sim."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtcp.address import FourTuple
from mtcp.errors import LocalProtocolError, Reason, RemoteProtocolError
from mtcp.roles.machine import LAST_RETRY, Machine
from mtcp.roles.old_server import OldServerRole
from mtcp.states import OldServer
from mtcp.wire.frames import Done, DoneAck, Query, Release, StateReject, StateRequest
from mtcp.wire.options import Abort, AbortAck, Ack3, Refusal
from mtcp.wire.options import Query as QueryOption
from tests.unit.role_hosts import (
    ACCEPT,
    KEY,
    MIGRATE,
    OLD,
    REPLY_FRAME,
    REQUEST,
    S1,
    S2,
    S3,
    TAG,
    C,
    ServerHost,
    fenced,
    old_server,
    run_timer,
    signed_request,
)

pytestmark = pytest.mark.unit
DONE, REFUSAL = Done(OLD, 1, TAG), Refusal(1).signed(KEY)
ABORT_MAC = Abort(1).signed(KEY).mac
RELEASE = Release(OLD, 1, TAG, ABORT_MAC)
DONE_ACK = (S2, DoneAck(OLD, 1, TAG))
QUERIES = [QueryOption(1).signed(KEY), (S2, Query(OLD, 1, TAG))]


def test_it_gives_away() -> None:
    role, host = old_server()
    role.on_request(REQUEST, 0.0)
    assert host.take() == ["fence", (S2, REPLY_FRAME)]
    role.on_request(REQUEST, 0.1)  # the reply was lost: neither fenced nor dumped a second time
    assert host.take() == [(S2, REPLY_FRAME)]
    for _ in range(2):
        role.on_outcome(DONE, 0.2)
    assert host.take() == ["close", DONE_ACK, DONE_ACK]
    role.on_request(REQUEST, 0.3)
    assert host.take() == [(S2, StateReject(OLD, 1, TAG, Reason.UNKNOWN_CONNECTION))]
    assert (role.state, role.deadline) == (OldServer.MIGRATED, None)


@pytest.mark.parametrize("reason", [Reason.AHEAD, Reason.LOG_OVERFLOW, Reason.INVALID_STATE])
def test_when_the_dump_fails_it_goes_on(reason: Reason) -> None:
    role, host = old_server()
    host.refuse = reason
    role.on_request(REQUEST, 0.0)
    assert host.take() == ["fence", "resume", (S2, StateReject(OLD, 1, TAG, reason))]
    assert (role.state, role.deadline) == (OldServer.ESTABLISHED, None)


@pytest.mark.parametrize(
    "forged",
    [
        replace(REQUEST, mac=bytes(8)),
        replace(REQUEST, rcv_nxt=101),
        replace(REQUEST, attempt=2),
        replace(REQUEST, new=FourTuple(S3, C)),
    ],
)
def test_the_mac_is_checked(forged: StateRequest) -> None:
    for role, host in (old_server(), fenced()):
        before = role.state, role.attempt, role.tag, role.new_server
        role.on_request(forged, 0.0)
        assert host.take() == [(forged.new.local, StateReject(OLD, forged.attempt, forged.mac, Reason.BAD_MAC))]
        assert (role.state, role.attempt, role.tag, role.new_server) == before


def test_it_is_busy_with_another_request_of_the_same_attempt() -> None:
    role, host = fenced()
    other = signed_request(1, rcv_nxt=99)
    role.on_request(other, 0.1)
    assert host.take() == [(S2, StateReject(OLD, 1, other.mac, Reason.BUSY))]
    role.on_outcome(DONE, 0.2)
    assert host.take() == ["close", DONE_ACK]


def test_a_later_attempt_takes_the_place_of_one_that_was_given_up() -> None:
    """The client would not leave this server again if it had left already; its ABORT may be lost."""
    role, host = fenced()
    later = signed_request(2, new=FourTuple(S3, C), rcv_nxt=120)
    role.on_request(later, 50.0)
    resume, fence, (server, reply) = host.take()
    assert (resume, fence, server, reply.tag, reply.reply.attempt) == ("resume", "fence", S3, later.mac, 2)
    with pytest.raises(RemoteProtocolError, match="of attempt 1, at 2"):
        role.on_outcome(DONE, 50.1)
    with pytest.raises(RemoteProtocolError, match="of attempt 1, at 2"):
        role.on_option(REFUSAL, 50.1)
    assert (host.take(), role.state) == ([], OldServer.FENCED)
    run_timer(role, 109.9)  # a lease of its own
    assert role.state is OldServer.FENCED
    role.on_outcome(Done(OLD, 2, later.mac), 109.9)
    assert host.take()[-2:] == ["close", (S3, DoneAck(OLD, 2, later.mac))]


def test_a_later_attempt_whose_dump_fails_leaves_it_unfenced() -> None:
    role, host = fenced()
    host.refuse = Reason.LOG_OVERFLOW
    later = signed_request(2)
    role.on_request(later, 1.0)
    assert host.take() == ["resume", "fence", "resume", (S2, StateReject(OLD, 2, later.mac, Reason.LOG_OVERFLOW))]
    assert (role.state, role.deadline) == (OldServer.ESTABLISHED, None)


def test_it_hears_abort() -> None:
    role, host = fenced()
    for _ in range(2):
        role.on_option(Abort(1).signed(KEY), 0.1)
    ack = AbortAck(1).signed(KEY)
    assert host.take() == ["resume", ack, ack]
    role.on_request(REQUEST, 0.2)  # late: it must not fence again
    assert host.take() == [(S2, StateReject(OLD, 1, TAG, Reason.STALE_ATTEMPT))]
    role.on_request(signed_request(2), 0.3)
    assert host.take()[0] == "fence"
    role.on_option(Abort(1).signed(KEY), 0.4)  # late: not of this attempt
    assert (host.take(), role.state) == ([ack], OldServer.FENCED)


def test_abort_that_overtakes_the_request() -> None:
    role, host = old_server()
    role.on_option(Abort(1).signed(KEY), 0.0)
    role.on_request(REQUEST, 0.1)
    assert host.take() == [AbortAck(1).signed(KEY), (S2, StateReject(OLD, 1, TAG, Reason.STALE_ATTEMPT))]
    role.on_option(Abort(0).signed(KEY), 0.2)
    assert host.take() == [AbortAck(0).signed(KEY)]


def test_the_new_server_passes_the_clients_abort_on() -> None:
    role, host = fenced()
    role.on_outcome(RELEASE, 0.1)
    role.on_outcome(RELEASE, 0.2)
    assert (host.take(), role.state, role.deadline) == (["resume"], OldServer.ESTABLISHED, None)
    role.on_request(REQUEST, 0.3)  # late: that attempt is over
    assert host.take() == [(S2, StateReject(OLD, 1, TAG, Reason.STALE_ATTEMPT))]
    role, _ = fenced()
    role.on_outcome(DONE, 0.1)
    role.on_outcome(RELEASE, 0.2)
    assert role.state is OldServer.MIGRATED


def test_a_refusal_of_a_later_attempt_is_no_abort_of_this_one() -> None:
    """The client has moved, tries to come back, and gives that up."""
    role, host = fenced()
    with pytest.raises(RemoteProtocolError, match="REFUSAL of attempt 2, at 1"):
        role.on_option(Refusal(2).signed(KEY), 0.1)
    assert (host.take(), role.state) == ([], OldServer.FENCED)


def test_fenced_it_asks_and_never_goes_on_by_itself() -> None:
    role, host = fenced()
    run_timer(role, 59.9)
    asked = host.take()
    assert asked[:2] == QUERIES and asked == QUERIES * (len(asked) // 2)
    assert len(asked) // 2 >= 59.9 / LAST_RETRY - 1
    assert role.state is OldServer.FENCED
    run_timer(role, 60.0)
    assert (host.take(), role.state, role.deadline) == (["close"], OldServer.MIGRATED, None)


def test_the_client_says_that_it_has_moved() -> None:
    role, host = fenced()
    for _ in range(2):
        role.on_option(REFUSAL, 0.1)
    assert (host.take(), role.state, role.deadline) == (["close"], OldServer.MIGRATED, None)


def test_it_comes_back() -> None:
    role, host = fenced()
    role.came_back(1, 0.1)  # late: by this attempt it leaves
    assert (host.take(), role.state) == ([], OldServer.FENCED)
    for _ in range(2):
        role.came_back(2, 0.1)
    assert (host.take(), role.state, role.deadline) == (["close"], OldServer.MIGRATED, None)
    role.on_option(REFUSAL, 0.2)
    assert (host.take(), role.state) == ([], OldServer.MIGRATED)


@pytest.mark.parametrize("outcome", ["done", "refusal", "abort", "nothing"])
def test_an_agent_that_begins_anew_recovers_a_fence(outcome: str) -> None:
    role, host = old_server()
    role.attempt = 1
    role.recover(S2, TAG, 10.0)
    assert (host.take(), role.state) == (QUERIES, OldServer.FENCED)
    match outcome:
        case "done":
            role.on_outcome(DONE, 10.1)
            assert host.take() == ["close", DONE_ACK]
        case "refusal":
            role.on_option(REFUSAL, 10.1)
            assert host.take() == ["close"]
        case "abort":
            role.on_option(Abort(1).signed(KEY), 10.1)
            assert host.take() == ["resume", AbortAck(1).signed(KEY)]
        case _:
            run_timer(role, 69.9)
            assert "resume" not in host.take() and role.state is OldServer.FENCED
            run_timer(role, 70.0)
            assert host.take() == ["close"]
    assert role.deadline is None


def recovered() -> tuple[OldServerRole, ServerHost]:
    """One whose agent before this one had answered REQUEST."""
    role, host = old_server()
    role.attempt = 1
    role.recover(S2, TAG, 10.0)
    host.take()
    return role, host


def test_a_recovered_fence_answers_the_repeated_request_anew() -> None:
    role, host = recovered()
    role.on_request(REQUEST, 10.1)
    role.on_request(REQUEST, 10.2)
    assert host.take() == ["fence", (S2, REPLY_FRAME), (S2, REPLY_FRAME)]
    role.on_outcome(DONE, 10.3)
    assert host.take() == ["close", DONE_ACK]


def test_a_recovered_fence_that_cannot_be_dumped_again_stays() -> None:
    """The agent before this one may have told the state: only the client knows."""
    role, host = recovered()
    host.refuse = Reason.INVALID_STATE
    role.on_request(REQUEST, 10.1)
    assert host.take() == ["fence", (S2, StateReject(OLD, 1, TAG, Reason.INVALID_STATE))]
    assert role.state is OldServer.FENCED and role.deadline is not None
    other = signed_request(1, rcv_nxt=99)
    role.on_request(other, 10.2)
    assert host.take() == [(S2, StateReject(OLD, 1, other.mac, Reason.BUSY))]
    host.refuse = None
    role.on_request(signed_request(2), 10.2)
    assert host.take()[:2] == ["resume", "fence"]


def test_what_is_forged_or_stale_is_dropped() -> None:
    role, host = old_server()
    for early in (Done(OLD, 0, TAG), Done(OLD, 0, bytes(8)), DONE):  # nobody asked
        with pytest.raises(RemoteProtocolError):
            role.on_outcome(early, 0.0)
    role, host = fenced()
    for option in (
        *(
            Abort(1),
            Abort(2, Abort(1).signed(KEY).mac),
            Ack3(1),
            Ack3(1).signed(KEY),
            Refusal(1),
            Refusal(2).signed(KEY),
        ),
        *(Ack3(1, Abort(1).signed(KEY).mac), ACCEPT, MIGRATE),
    ):
        with pytest.raises(RemoteProtocolError):
            role.on_option(option, 0.1)
    for frame in (
        *(Done(OLD, 2, TAG), Done(OLD, 1, bytes(8)), Release(OLD, 2, TAG, ABORT_MAC)),
        *(Release(OLD, 1, bytes(8), ABORT_MAC), Release(OLD, 1, TAG, bytes(8)), Release(OLD, 1, TAG, REFUSAL.mac)),
    ):
        with pytest.raises(RemoteProtocolError):
            role.on_outcome(frame, 0.1)
    assert (host.take(), role.state) == ([], OldServer.FENCED)


def test_closed() -> None:
    role, host = fenced()
    role.closed(0.1)
    assert (role.state, host.take()) == (OldServer.FENCED, [])
    role, host = old_server()
    role.closed(0.1)
    role.closed(0.2)
    role.on_request(REQUEST, 0.3)
    assert host.take() == [(S2, StateReject(OLD, 1, TAG, Reason.UNKNOWN_CONNECTION))]
    role.came_back(2, 0.4)
    assert (role.state, role.deadline) == (OldServer.CLOSED, None)


def test_timers_say_whose_fault_an_absent_pair_is() -> None:
    role, _ = fenced()
    with pytest.raises(LocalProtocolError, match="RECOVERED cannot happen in state FENCED"):
        role.recover(S1, TAG, 0.1)
    Machine.on_timer(role, 0.0)  # before its deadline: harmless
    assert role.state is OldServer.FENCED
