"""Every event in every state: roles driven by whatever may come, genuine, stale, forged or foreign, in any order."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcp.address import FourTuple
from mtcp.errors import MtcpError, Reason
from mtcp.roles.client import ClientRole
from mtcp.roles.machine import Machine
from mtcp.roles.new_server import NewServerRole
from mtcp.roles.old_server import OldServerRole
from mtcp.states import Client, Event, NewServer, State
from mtcp.wire.frames import Done, DoneAck, Query, Release, StateReject, StateReplyFrame
from mtcp.wire.options import Abort, AbortAck, Accept, Ack3, AnyOption, Refusal, Reject
from mtcp.wire.options import Query as QueryOption
from tests.unit import role_hosts
from tests.unit.role_hosts import KEY, MIGRATE, NEW, OLD, REPLY, S1, S2, S3, TAG, C

pytestmark = pytest.mark.unit
KEYS = (KEY, KEY, KEY, b"8 bytes?")
ATTEMPTS = (0, 1, 1, 1, 2, 3)
OPTIONS = (Accept, Ack3, Abort, AbortAck, QueryOption, Refusal)
Draw = random.Random


class Walk:
    """One role, and what may happen to it."""

    def __init__(self, role: Machine, host: role_hosts.Recorder, r: Draw) -> None:
        self.role, self.host, self.r, self.now = role, host, r, 0.0
        self.seen: set[tuple[State, Event]] = set()
        fire = role.fire

        def watched(event: Event, now: float) -> None:
            self.seen.add((role.state, event))
            fire(event, now)

        role.fire = watched  # type: ignore[method-assign]

    def moves(self) -> list[Callable[[], object]]:
        raise NotImplementedError

    def snapshot(self) -> Any:
        """All that a forged message must leave alone."""
        kept = {k: v for k, v in vars(self.role).items() if k not in ("fire", "_asking", "refused", "_port")}
        return dict(kept), list(self.host.did)

    def option(self) -> AnyOption:
        return self.r.choice(OPTIONS)(self.r.choice(ATTEMPTS)).signed(self.r.choice(KEYS))

    def step(self) -> None:
        self.now += self.r.choice((0.0, 0.1, 0.5, 4.0, 70.0)) * self.r.random()
        with contextlib.suppress(MtcpError):
            self.r.choice(self.moves())()
        due = (self.role.state, self.role.retry_event) in self.role.table
        assert (self.role.deadline is not None) == due, self.role.state
        assert due or self.role.state not in (Client.WITHDRAWING, Client.CLOSING), "waits for what has been answered"

    def forge(self, deliver: Callable[[], None]) -> None:
        """What `deliver` brings must change nothing but, perhaps, provoke a refusal."""
        before = self.snapshot()
        with pytest.raises(MtcpError):
            deliver()
        assert self.snapshot() == before


class ClientWalk(Walk):
    role: ClientRole
    host: role_hosts.ClientHost

    def moves(self) -> list[Callable[[], object]]:
        role, r = self.role, self.r
        server = r.choice((S1, S2, S3))
        forged = r.choice((Accept, AbortAck, QueryOption))(r.choice(ATTEMPTS)).signed(b"8 bytes?")
        forged_reject = Reject(role.attempt, Reason.BUSY, b"12345678")
        tag = role._migrate.mac if role._migrate is not None else TAG
        return [
            lambda: role.migrate(server, self.now),
            lambda: role.committed(self.now),
            lambda: role.closed(self.now) if r.random() < 0.2 else None,
            lambda: setattr(self.host, "committed", r.random() < 0.3),
            lambda: role.on_timer(self.now),
            lambda: role.on_option(server, self.option(), self.now),
            lambda: role.on_option(server, replace(self.option(), attempt=role.attempt).signed(KEY), self.now),  # type: ignore[call-arg,union-attr]
            lambda: role.on_option(role.target or S2, Reject(role.attempt, r.choice(list(Reason)), tag), self.now),
            lambda: role.on_option(server, MIGRATE, self.now),
            lambda: role.on_option(role.current, AbortAck(role.attempt).signed(KEY), self.now),
            lambda: self.forge(lambda: role.on_option(server, forged, self.now)),
            lambda: self.forge(lambda: role.on_option(server, forged_reject, self.now)),
        ]


class OldServerWalk(Walk):
    role: OldServerRole
    host: role_hosts.ServerHost

    def moves(self) -> list[Callable[[], object]]:
        role, r = self.role, self.r
        attempt = r.choice(ATTEMPTS)
        request = role_hosts.signed_request(attempt, new=FourTuple(r.choice((S2, S3)), C), rcv_nxt=r.choice((99, 100)))
        forged = r.choice((Abort, Refusal))(attempt).signed(b"8 bytes?")
        proof = Abort(role.attempt).signed(KEY).mac
        return [
            lambda: role.on_request(request, self.now),
            lambda: role.on_request(role_hosts.REQUEST, self.now),
            lambda: role.on_request(replace(request, mac=bytes(8)), self.now),
            lambda: role.on_outcome(Done(OLD, role.attempt, role.tag), self.now),
            lambda: role.on_outcome(Release(OLD, role.attempt, role.tag, proof), self.now),
            lambda: role.on_option(self.option(), self.now),
            lambda: role.on_option(Refusal(role.attempt).signed(KEY), self.now),
            lambda: role.came_back(r.choice((1, 4, 9)), self.now),
            lambda: role.closed(self.now) if r.random() < 0.2 else None,
            lambda: role.on_timer(self.now),
            lambda: setattr(self.host, "refuse", r.choice((None, None, Reason.LOG_OVERFLOW))),
            lambda: self.forge(lambda: role.on_option(forged, self.now)),
            lambda: self.forge(lambda: role.on_outcome(Done(OLD, attempt, b"12345678"), self.now)),
            lambda: self.forge(lambda: role.on_outcome(Release(OLD, role.attempt, role.tag, b"12345678"), self.now)),
        ]


class NewServerWalk(Walk):
    role: NewServerRole
    host: role_hosts.ServerHost

    def moves(self) -> list[Callable[[], object]]:
        role, r = self.role, self.r
        frame = r.choice(
            (
                *(StateReplyFrame(OLD, TAG, REPLY), StateReject(OLD, 1, TAG, r.choice(list(Reason)))),
                *(DoneAck(OLD, 1, TAG), Query(OLD, 1, TAG)),
            )
        )
        return [
            lambda: role.on_migrate_syn(self.now),
            lambda: role.recover(KEY, self.now) if role.state is NewServer.LISTEN else None,
            lambda: role.on_frame(frame, self.now),
            lambda: role.on_ack3(Ack3(1).signed(KEY), self.now),
            lambda: role.on_refusal(Refusal(1, r.choice((bytes(8), b"12345678"))).signed(KEY), self.now),
            lambda: role.on_traffic(self.now),
            lambda: role.superseded(self.now),
            lambda: role.on_timer(self.now),
            lambda: setattr(self.host, "application", r.random() < 0.9),
            lambda: setattr(self.host, "restore_fails", r.choice((None, None, OSError("no")))),
            lambda: self.forge(lambda: role.on_ack3(Ack3(1).signed(b"8 bytes?"), self.now)),
            lambda: self.forge(lambda: role.on_ack3(Ack3(2).signed(KEY), self.now)),
            lambda: self.forge(lambda: role.on_refusal(Refusal(1).signed(b"8 bytes?"), self.now)),
        ]


def client(r: Draw) -> Walk:
    role, host = role_hosts.client()
    if r.random() < 0.2:
        host.attempt, host.committed = 1, r.random() < 0.5
        role.recover(r.choice((None, S2)), 1, 0.0)
    return ClientWalk(role, host, r)


def old_server(r: Draw) -> Walk:
    role, host = role_hosts.old_server()
    if r.random() < 0.3:
        role.attempt = 1
        role.recover(S2, TAG, 0.0)
    return OldServerWalk(role, host, r)


def new_server(r: Draw) -> Walk:
    host = role_hosts.ServerHost()
    return NewServerWalk(NewServerRole(NEW, MIGRATE, 500, host), host, r)


WALKS = {"client": client, "old server": old_server, "new server": new_server}
walks = pytest.mark.parametrize("begin", WALKS.values(), ids=WALKS)
START_ONLY = {"RECOVERED"}
"""Events that happen before a walk begins, for they are the first in a role's life."""


@walks
@given(r=st.randoms(use_true_random=False), length=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_whatever_comes_only_our_errors_come_out(begin: Callable[[Draw], Walk], r: Draw, length: int) -> None:
    walk = begin(r)
    for _ in range(length):
        walk.step()


@walks
def test_every_row_of_the_table_is_walked(begin: Callable[[Draw], Walk]) -> None:
    seen: set[tuple[State, Event]] = set()
    for seed in range(1500):
        walk = begin(random.Random(seed))
        for _ in range(25):
            walk.step()
        seen |= walk.seen
        table = walk.role.table
    missing = {(state, event) for state, event in table if event.name not in START_ONLY} - seen
    assert not missing
    # And with them many pairs that are none: those came out as errors.
    assert len(seen - set(table)) >= 5
