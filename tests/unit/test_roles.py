"""The servers' two roles, each told what happens and asked what it did; together on a network they are in tests/sim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mtcp.address import Endpoint, FourTuple
from mtcp.errors import Reason, RemoteProtocolError
from mtcp.roles.machine import FIRST_RETRY, Machine
from mtcp.roles.new_server import NewServerRole
from mtcp.roles.old_server import OldServerRole
from mtcp.snapshot import Refused, SoSnapshot, StateReply, TcpSnapshot
from mtcp.states import NewServer, OldServer
from mtcp.wire.frames import Done, DoneAck, Frame, StateReject, StateReplyFrame, StateRequest
from mtcp.wire.options import Abort, AbortAck, Accept, Ack3, AnyOption, Migrate, Reject, migrate_mac

pytestmark = pytest.mark.unit
KEY = b"8 bytes!"
S1, S2, C = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80), Endpoint("10.0.0.9", 50000)
OLD, NEW = FourTuple(S1, C), FourTuple(S2, C)
MIGRATE = Migrate(S1, 100, 1).signed(KEY, C, S2)
REQUEST = StateRequest(OLD, NEW, 100, 1, MIGRATE.mac)
REPLY = StateReply(
    5, 6, 90, 100, 10, TcpSnapshot(1, 1, 7, 1460, 7, 7, 0, 9, 9, 9, 0), SoSnapshot(0, 0, -1), KEY, 1, b"", b"", b"r"
)
ACCEPT, ACK3 = Accept(6, 1).signed(KEY), Ack3(1).signed(KEY)


def run_timer(role: Machine, seconds: float) -> None:
    """Call on_timer as a driver does, at each deadline within `seconds`."""
    while role.deadline is not None and role.deadline <= seconds:
        role.on_timer(role.deadline)


class ServerHost:
    """Both ports at once; keeps what the role did."""

    def __init__(self) -> None:
        self.did: list[Any] = []
        self.refuse: Reason | None = None
        self.restore_fails = False
        self.application = True

    def take(self) -> list[Any]:
        done, self.did = self.did, []
        return done

    # old server
    def fence_and_dump(self, client_rcv_nxt: int, attempt: int) -> StateReply:
        self.did.append("fence")
        if self.refuse is not None:
            raise Refused(self.refuse)
        return replace(REPLY, attempt=attempt)

    def resume(self) -> None:
        self.did.append("resume")

    def close_silently(self) -> None:
        self.did.append("close")

    # new server
    def has_application(self) -> bool:
        return self.application

    def restore(self, reply: StateReply, client_rcv_nxt: int, client_window: int) -> None:
        self.did.append("restore")
        if self.restore_fails:
            raise OSError("no")

    def discard(self) -> None:
        self.did.append("discard")

    def send(self, option: AnyOption) -> None:
        self.did.append(option)

    def send_frame(self, peer: Any, frame: Frame) -> Any:
        self.did.append((peer, frame))
        return True


def old_server() -> tuple[OldServerRole, ServerHost]:
    host = ServerHost()
    return OldServerRole(OLD, KEY, 0, host), host


def new_server() -> tuple[NewServerRole, ServerHost]:
    host = ServerHost()
    return NewServerRole(NEW, MIGRATE, 500, host), host


# -- the old server


def test_old_server_gives_away() -> None:
    role, host = old_server()
    role.on_request(REQUEST, "peer", 0.0)
    answer = ("peer", StateReplyFrame(OLD, REPLY))
    assert host.take() == ["fence", answer]
    role.on_request(REQUEST, "again", 0.1)  # the reply was lost: neither fenced nor dumped a second time
    assert host.take() == [("again", StateReplyFrame(OLD, REPLY))]
    for _ in range(2):
        role.on_done(Done(OLD, 1), "peer", 0.2)
    assert host.take() == ["close", ("peer", DoneAck(OLD, 1)), ("peer", DoneAck(OLD, 1))]
    role.on_request(REQUEST, "peer", 0.3)
    assert host.take() == [("peer", StateReject(OLD, 1, Reason.UNKNOWN_CONNECTION))]
    assert (role.state, role.deadline) == (OldServer.MIGRATED, None)


@pytest.mark.parametrize("reason", [Reason.AHEAD, Reason.LOG_OVERFLOW, Reason.INVALID_STATE])
def test_old_server_whose_dump_fails_goes_on(reason: Reason) -> None:
    role, host = old_server()
    host.refuse = reason
    role.on_request(REQUEST, "peer", 0.0)
    assert host.take() == ["fence", "resume", ("peer", StateReject(OLD, 1, reason))]
    assert role.state is OldServer.ESTABLISHED


def signed(attempt: int, **changes: Any) -> StateRequest:
    request = replace(REQUEST, attempt=attempt, **changes)
    return replace(request, mac=migrate_mac(KEY, request.old, request.new.local, request.rcv_nxt, attempt))


@pytest.mark.parametrize(
    "forged",
    [
        replace(REQUEST, mac=bytes(8)),
        replace(REQUEST, rcv_nxt=101),
        replace(REQUEST, attempt=2),
        replace(REQUEST, new=FourTuple(Endpoint("10.0.0.3", 80), C)),
    ],
)
def test_old_server_checks_the_mac(forged: StateRequest) -> None:
    role, host = old_server()
    role.on_request(forged, "peer", 0.0)
    assert host.take() == [("peer", StateReject(OLD, forged.attempt, Reason.BAD_MAC))]
    assert (role.state, role.attempt) == (OldServer.ESTABLISHED, 0)


def test_old_server_is_busy_with_another_request() -> None:
    role, host = old_server()
    role.on_request(REQUEST, "peer", 0.0)
    host.take()
    for other in (signed(2), signed(1, rcv_nxt=99)):
        role.on_request(other, "other", 0.1)
        assert host.take() == [("other", StateReject(OLD, other.attempt, Reason.BUSY))]
    role.on_done(Done(OLD, 1), "peer", 0.2)
    assert host.take() == ["close", ("peer", DoneAck(OLD, 1))]


def test_old_server_hears_abort() -> None:
    role, host = old_server()
    role.on_request(REQUEST, "peer", 0.0)
    host.take()
    for _ in range(2):
        role.on_option(Abort(1).signed(KEY), 0.1)
    ack = AbortAck(1).signed(KEY)
    assert host.take() == ["resume", ack, ack]
    role.on_request(REQUEST, "peer", 0.2)  # late: it must not fence again
    assert host.take() == [("peer", StateReject(OLD, 1, Reason.STALE_ATTEMPT))]
    role.on_request(signed(2), "peer", 0.3)
    assert host.take()[0] == "fence"
    role.on_option(Abort(1).signed(KEY), 0.4)  # late: not of this attempt
    assert (host.take(), role.state) == ([ack], OldServer.FENCED)


def test_abort_that_overtakes_the_request() -> None:
    role, host = old_server()
    role.on_option(Abort(1).signed(KEY), 0.0)
    role.on_request(REQUEST, "peer", 0.1)
    assert host.take() == [AbortAck(1).signed(KEY), ("peer", StateReject(OLD, 1, Reason.STALE_ATTEMPT))]


def test_old_server_drops_what_is_forged_or_stale() -> None:
    role, host = old_server()
    with pytest.raises(RemoteProtocolError):
        role.on_done(Done(OLD, 0), "peer", 0.0)  # nobody asked
    role.on_request(REQUEST, "peer", 0.0)
    host.take()
    for option in (Abort(1), Abort(2, Abort(1).signed(KEY).mac), ACCEPT, MIGRATE):
        with pytest.raises(RemoteProtocolError):
            role.on_option(option, 0.1)
    with pytest.raises(RemoteProtocolError):
        role.on_done(Done(OLD, 2), "peer", 0.1)
    assert (host.take(), role.state) == ([], OldServer.FENCED)


def test_closed_while_fenced_stays_fenced() -> None:
    role, host = old_server()
    role.on_request(REQUEST, "peer", 0.0)
    role.closed(0.1)
    assert (role.state, "resume" in host.take()) == (OldServer.FENCED, False)


# -- the new server


def taking() -> tuple[NewServerRole, ServerHost]:
    """One that has got as far as the state."""
    role, host = new_server()
    role.on_migrate_syn(0.0)
    role.on_frame(StateReplyFrame(OLD, REPLY), 0.1)
    assert host.take() == [(S1, REQUEST), "restore", ACCEPT]
    return role, host


def test_new_server_takes() -> None:
    role, host = taking()
    role.on_migrate_syn(0.2)  # the client repeats: it has not heard ACCEPT
    role.on_frame(StateReplyFrame(OLD, REPLY), 0.2)
    assert host.take() == [ACCEPT]
    role.on_ack3(ACK3, 0.3)
    role.on_ack3(ACK3, 0.3)
    assert host.take() == [(S1, Done(OLD, 1))]
    run_timer(role, 0.3 + FIRST_RETRY)
    assert host.take() == [(S1, Done(OLD, 1))]
    role.on_frame(DoneAck(OLD, 1), 0.6)
    assert (role.state, role.deadline) == (NewServer.OWNED, None)
    role.on_migrate_syn(0.7)
    assert host.take() == [ACCEPT]


def test_new_server_repeats_its_request() -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    run_timer(role, 9.9)
    assert host.did.count((S1, REQUEST)) == len(host.take()) > 8
    run_timer(role, 10.0)
    assert (host.take(), role.state) == ([Reject(1, Reason.UNREACHABLE)], NewServer.FAILED)


def test_traffic_is_as_good_as_ack3() -> None:
    role, host = taking()
    role.on_traffic(0.2)
    role.on_traffic(0.3)
    assert host.take() == [(S1, Done(OLD, 1))]


def test_new_server_lets_go_of_what_nobody_commits_to() -> None:
    role, host = taking()
    run_timer(role, 100.0)
    *accepts, last = host.take()
    assert set(accepts) == {ACCEPT} and last == "discard"
    with pytest.raises(RemoteProtocolError):
        role.on_frame(DoneAck(OLD, 1), 101.0)
    role.on_frame(StateReplyFrame(OLD, REPLY), 101.0)
    role.on_ack3(ACK3, 101.0)
    assert (host.take(), role.state) == ([], NewServer.FAILED)


def test_new_server_lets_go_of_what_the_client_has_given_up() -> None:
    role, host = taking()
    host.take()
    for forged in (Abort(1), Abort(2).signed(KEY)):
        with pytest.raises(RemoteProtocolError, match="wrong MAC"):
            role.on_abort(forged, 0.1)
    role.on_abort(Abort(1).signed(KEY), 0.1)
    role.on_abort(Abort(1).signed(KEY), 0.2)
    assert (host.take(), role.state, role.deadline) == (["discard"], NewServer.FAILED, None)


def test_abort_means_nothing_before_there_is_a_key() -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    host.take()
    with pytest.raises(RemoteProtocolError):
        role.on_abort(Abort(1).signed(KEY), 0.1)
    assert (host.take(), role.state) == ([], NewServer.REQUESTED)


@pytest.mark.parametrize("reason", Reason)
def test_new_server_passes_the_reason_on(reason: Reason) -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    host.take()
    role.on_frame(StateReject(OLD, 2, reason), 0.1)  # of another attempt
    assert host.take() == []
    role.on_frame(StateReject(OLD, 1, reason), 0.1)
    role.on_migrate_syn(0.2)
    assert host.take() == [Reject(1, reason)] * 2


def test_new_server_cannot() -> None:
    role, host = new_server()
    host.application = False
    role.on_migrate_syn(0.0)
    assert host.take() == [Reject(1, Reason.NO_APPLICATION)]
    role, host = new_server()
    host.restore_fails = True
    role.on_migrate_syn(0.0)
    role.on_frame(StateReplyFrame(OLD, REPLY), 0.1)
    assert host.take()[1:] == ["restore", Reject(1, Reason.RESTORE_FAILED)]
    assert (role.state, role.deadline) == (NewServer.FAILED, None)


def test_new_server_drops_what_is_forged_or_stale() -> None:
    role, host = new_server()
    role.on_migrate_syn(0.0)
    host.take()
    with pytest.raises(RemoteProtocolError):
        role.on_ack3(ACK3, 0.1)  # before there is a key to check it with
    with pytest.raises(RemoteProtocolError):
        role.on_frame(StateReplyFrame(OLD, replace(REPLY, attempt=2)), 0.1)
    role.on_frame(StateReplyFrame(OLD, REPLY), 0.1)
    host.take()
    for forged in (Ack3(1), Ack3(2).signed(KEY), Ack3(1).signed(b"8 bytes?")):
        with pytest.raises(RemoteProtocolError, match="wrong MAC"):
            role.on_ack3(forged, 0.2)
    role.on_frame(replace(DoneAck(OLD, 1), attempt=2), 0.2)
    assert (host.take(), role.state) == ([], NewServer.RESTORED)
