"""The client's role, told what happens and asked what it did; the servers' are in test_roles.py."""

from __future__ import annotations

from typing import Any

import pytest

from mtcp.address import Endpoint, FourTuple
from mtcp.errors import LocalProtocolError, Reason, RemoteProtocolError
from mtcp.roles.client import ClientRole, Mark
from mtcp.roles.machine import FIRST_RETRY, Machine
from mtcp.states import Client
from mtcp.wire.options import Abort, AbortAck, Accept, Ack3, AnyOption, Migrate, Reject

pytestmark = pytest.mark.unit
KEY = b"8 bytes!"
S1, S2, C = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80), Endpoint("10.0.0.9", 50000)
MIGRATE = Migrate(S1, 100, 1).signed(KEY, C, S2)
ACCEPT, ACK3 = Accept(6, 1).signed(KEY), Ack3(1).signed(KEY)


def run_timer(role: Machine, seconds: float) -> None:
    """Call on_timer as a driver does, at each deadline within `seconds`."""
    while role.deadline is not None and role.deadline <= seconds:
        role.on_timer(role.deadline)


class ClientHost:
    """The role's port; keeps what it did."""

    def __init__(self) -> None:
        self.did: list[Any] = []
        self.attempt = 0
        self.committed = False

    def take(self) -> list[Any]:
        done, self.did = self.did, []
        return done

    def begin_mapping(self, server: Endpoint) -> Mark:
        self.attempt += 1
        self.did.append("begin")
        return Mark(100, self.attempt)

    def abort_mapping(self) -> bool:
        self.did.append("abort mapping")
        return not self.committed

    def report(self, moved: bool, server: Endpoint, reason: str) -> None:
        self.did.append(("moved" if moved else "kept", server, reason))

    def send(self, server: Endpoint, option: AnyOption) -> None:
        self.did.append((server, option))


def client() -> tuple[ClientRole, ClientHost]:
    host = ClientHost()
    return ClientRole(FourTuple(C, S1), KEY, S1, host), host


def test_client_moves() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    assert host.take() == ["begin", (S2, MIGRATE)]
    role.on_option(S2, ACCEPT, 0.1)
    assert host.take() == []
    role.committed(0.1)
    assert host.take() == [(S2, ACK3), ("moved", S2, "")]
    assert (role.state, role.current, role.deadline) == (Client.TRACKED, S2, None)
    role.on_option(S2, ACCEPT, 0.2)  # our ACK3 was lost
    assert host.take() == [(S2, ACK3)]


def test_client_moves_back_and_forth() -> None:
    role, host = client()
    for attempt, (here, there) in enumerate([(S1, S2), (S2, S1), (S1, S2)], 1):
        role.migrate(there, 0.0)
        migrate = Migrate(here, 100, attempt).signed(KEY, C, there)
        assert host.take() == ["begin", (there, migrate)]
        with pytest.raises(RemoteProtocolError):  # of the attempt before
            role.on_option(here, Accept(6, attempt - 1).signed(KEY), 0.1)
        role.committed(0.1)
        assert host.take()[-1] == ("moved", there, "")


def test_client_repeats_and_gives_up() -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    host.take()
    run_timer(role, 4.9)
    assert host.did.count((S2, MIGRATE)) == len(host.take()) > 4
    run_timer(role, 5.0)
    abort, refusal = (S1, Abort(1).signed(KEY)), (S2, Abort(1).signed(KEY))
    mapping, told, refused, (kept, server, reason) = host.take()
    assert (mapping, told, refused, kept, server) == ("abort mapping", abort, refusal, "kept", S2)
    assert "no answer" in reason
    run_timer(role, 5.0 + FIRST_RETRY)
    assert host.take() == [abort]
    role.on_option(S1, AbortAck(1).signed(KEY), 6.0)
    assert (role.state, role.deadline, role.current) == (Client.TRACKED, None, S1)


def test_client_stops_telling_a_server_that_never_confirms() -> None:
    role, _ = client()
    role.migrate(S2, 0.0)
    run_timer(role, 100.0)
    assert (role.state, role.deadline) == (Client.TRACKED, None)


@pytest.mark.parametrize("reason", Reason)
def test_client_is_rejected(reason: Reason) -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    host.take()
    role.on_option(S2, Reject(1, reason), 0.1)
    assert host.take() == [
        "abort mapping",
        (S1, Abort(1).signed(KEY)),
        (S2, Abort(1).signed(KEY)),
        ("kept", S2, f"{reason.name}: {reason.advice}"),
    ]


def test_a_commit_that_an_abort_finds_out_wins() -> None:
    """And the mapping's event, which comes later, is no second commit."""
    role, host = client()
    role.migrate(S2, 0.0)
    host.committed = True
    host.take()
    role.on_option(S2, Reject(1, Reason.BUSY), 0.1)
    assert host.take() == ["abort mapping", (S2, ACK3), ("moved", S2, "")]
    role.committed(0.2)
    assert (host.take(), role.current, role.deadline) == ([], S2, None)


def test_an_attempt_that_was_given_up_is_refused_and_gets_no_ack3() -> None:
    """ACK3 would make S2 an owner beside S1."""
    role, host = client()
    refusal = (S2, Abort(1).signed(KEY))
    role.migrate(S2, 0.0)
    role.on_option(S2, Reject(1, Reason.BUSY), 0.1)
    host.take()
    role.on_option(S2, ACCEPT, 0.1)
    assert host.take() == [refusal]
    role.on_option(S1, AbortAck(1).signed(KEY), 0.2)
    role.on_option(S2, ACCEPT, 0.3)
    assert host.take() == [refusal]
    role.migrate(S2, 0.4)
    host.take()
    role.on_option(S2, ACCEPT, 0.5)
    assert (host.take(), role.state) == ([refusal], Client.SS_ISMIGRATING)


def test_only_the_old_server_confirms_an_abort() -> None:
    role, _ = client()
    role.migrate(S2, 0.0)
    role.on_option(S2, Reject(1, Reason.BUSY), 0.1)
    with pytest.raises(RemoteProtocolError):
        role.on_option(S2, AbortAck(1).signed(KEY), 0.2)
    assert role.state is Client.ABORTING


@pytest.mark.parametrize(
    ("server", "option"),
    [
        (S2, Accept(6, 1)),
        (S2, Accept(7, 1, ACCEPT.mac)),
        (S2, Accept(6, 2).signed(KEY)),
        (S2, Reject(2, Reason.BUSY)),
        (S1, Reject(1, Reason.BUSY)),
        (S1, AbortAck(1)),
        (S2, MIGRATE),
        (S2, ACK3),
    ],
)
def test_client_drops_what_is_forged_or_stale(server: Endpoint, option: AnyOption) -> None:
    role, host = client()
    role.migrate(S2, 0.0)
    host.take()
    with pytest.raises(RemoteProtocolError):
        role.on_option(server, option, 0.1)
    assert (host.take(), role.state) == ([], Client.SS_ISMIGRATING)


def test_client_refuses_senseless_moves() -> None:
    role, host = client()
    with pytest.raises(LocalProtocolError, match="already"):
        role.migrate(S1, 0.0)
    role.migrate(S2, 0.0)
    host.take()
    with pytest.raises(LocalProtocolError):
        role.migrate(Endpoint("10.0.0.3", 80), 0.0)
    assert (host.take(), role.target) == ([], S2)
    role.closed(0.1)
    assert (role.state, role.deadline, host.take()[0][0]) == (Client.GONE, None, "kept")
