"""Ways to break the protocol, each of which the simulator has to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mtcp import sim_client, sim_kernel, sim_server
from mtcp.capsule import Fence
from mtcp.roles.client import ClientRole
from mtcp.roles.machine import Machine
from mtcp.roles.new_server import NewServerRole
from mtcp.roles.old_server import OldServerRole
from mtcp.snapshot import StateReply, compose
from mtcp.states import (
    Action,
    Client,
    ClientAction,
    ClientEvent,
    Event,
    NewServer,
    NewServerAction,
    NewServerEvent,
    OldServer,
    OldServerAction,
    OldServerEvent,
    State,
)
from mtcp.wire.options import Abort, AnyOption, Refusal

Break = Callable[[pytest.MonkeyPatch], None]
_O, _OE, _OA = OldServer, OldServerEvent, OldServerAction
_N, _NE, _NA = NewServer, NewServerEvent, NewServerAction
_C, _CE, _CA = Client, ClientEvent, ClientAction


def came_back_by_anything(patch: pytest.MonkeyPatch) -> None:
    """As it was once: whatever attempt the state reply is of, it ends the fenced connection."""

    def came_back(self: OldServerRole, attempt: int, now: float) -> None:
        self.fire(_OE.CAME_BACK, now)

    patch.setattr(OldServerRole, "came_back", came_back)


def row(role: type[Machine], state: State, event: Event, actions: tuple[Action, ...] | None, following: State) -> Break:
    """Another row in a role's table; no actions: as before, but another state."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        was = role.table[state, event][0] if actions is None else actions
        patch.setattr(role, "table", {**role.table, (state, event): (was, following)})

    return apply


def no_fence(patch: pytest.MonkeyPatch) -> None:
    original = sim_server.Holding.fence_and_dump

    def fence_and_dump(self: sim_server.Holding, client_rcv_nxt: int, attempt: int) -> StateReply:
        reply = original(self, client_rcv_nxt, attempt)
        self.capsule.fence, self.kernel.frozen = Fence.OPEN, False
        return reply

    patch.setattr(sim_server.Holding, "fence_and_dump", fence_and_dump)


def wrong(field: str, by: int) -> Break:
    """A number of the state reply that is off."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        def composed(*arguments: Any) -> StateReply:
            reply = compose(*arguments)
            object.__setattr__(reply, field, max(0, getattr(reply, field) + by))
            return reply

        patch.setattr(sim_server, "compose", composed)

    return apply


def lag_ignored(patch: pytest.MonkeyPatch) -> None:
    """snd_max_seen as the client reports it, although it has acknowledged more since."""
    patch.setattr("mtcp.snapshot.snd_max_seen", lambda client_rcv_nxt, snd_una: client_rcv_nxt)


def stale_abort_resumes(patch: pytest.MonkeyPatch) -> None:
    row(OldServerRole, _O.FENCED, _OE.STALE_ABORT, (_OA.STOP_TIMERS, _OA.RESUME, _OA.SEND_ABORT_ACK), _O.ESTABLISHED)(
        patch
    )


def ack3_for_given_up(patch: pytest.MonkeyPatch) -> None:
    for state in (_C.TRACKED, _C.SS_ISMIGRATING, _C.ABORTING):
        row(ClientRole, state, _CE.GIVEN_UP_ACCEPT, (_CA.ANSWER_ACK3,), state)(patch)


def commit_without_looking(patch: pytest.MonkeyPatch) -> None:
    """Any ACCEPT of the next server commits, of whatever attempt."""
    original = sim_client.SimClient.on_control

    def on_control(self: sim_client.SimClient, server: Any, option: AnyOption) -> None:
        if isinstance(option, sim_client.Accept) and self.migrating and server == self.next:
            option = sim_client.Accept(self.attempt).signed(sim_client.KEY)
        original(self, server, option)

    patch.setattr(sim_client.SimClient, "on_control", on_control)


def abort_after_commit(patch: pytest.MonkeyPatch) -> None:
    """The mapping goes back although it had committed."""

    def abort_mapping(self: sim_client.SimClient) -> bool:
        if not self.migrating:
            assert self.role is not None
            self.current = self.role.current
        self.migrating = False
        self.aborted.add(self.attempt)
        return True

    patch.setattr(sim_client.SimClient, "abort_mapping", abort_mapping)


def owner_never_told(patch: pytest.MonkeyPatch) -> None:
    """C answers no QUERY."""
    for state in (_C.TRACKED, _C.SS_ISMIGRATING, _C.ABORTING):
        for event in (_CE.OWNERS_QUERY, _CE.STRANGERS_QUERY):
            row(ClientRole, state, event, (), state)(patch)


def refusal_is_abort(patch: pytest.MonkeyPatch) -> None:
    """As it was once: the new server is told by the message by which the old one is."""
    original = OldServerRole.on_option

    def on_option(self: OldServerRole, option: AnyOption, now: float) -> None:
        if isinstance(option, Refusal) and option.attempt != self.attempt:
            option = Abort(option.attempt).signed(self.key)
        original(self, option, now)

    patch.setattr(OldServerRole, "on_option", on_option)


def export_forgets_swallowing(patch: pytest.MonkeyPatch) -> None:
    original = sim_kernel.Capsule._put

    def put(self: Any, state: bytes, rcv_offset: int, snd_offset: int, bits: int) -> None:
        original(self, state, rcv_offset, snd_offset + self.swallow * bool(rcv_offset), bits)

    patch.setattr(sim_kernel.Capsule, "_put", put)


MUTATIONS: dict[str, Break] = {
    "came back by anything": came_back_by_anything,
    "no fence": no_fence,
    "discard too much": wrong("snd_bytes_discard", 1),
    "discard too little": wrong("snd_bytes_discard", -1),
    "skip a byte of output": wrong("snd_max_seen", 1),
    "lag ignored": lag_ignored,
    "export forgets swallowing": export_forgets_swallowing,
    "unfence on timer": row(OldServerRole, _O.FENCED, _OE.GIVE_UP, (_OA.STOP_TIMERS, _OA.RESUME), _O.ESTABLISHED),
    "unfence on first retry": row(OldServerRole, _O.FENCED, _OE.RETRY, (_OA.STOP_TIMERS, _OA.RESUME), _O.ESTABLISHED),
    "stale ABORT resumes": stale_abort_resumes,
    "never asks": row(OldServerRole, _O.FENCED, _OE.RETRY, (), _O.FENCED),
    "never told": owner_never_told,
    "DONE before the commit": row(
        NewServerRole,
        _N.REQUESTED,
        _NE.STATE_REPLY,
        (_NA.START_LEASE, _NA.RESTORE, _NA.SEND_DONE, _NA.SEND_ACCEPT),
        _N.RESTORED,
    ),
    "refused, and goes on": row(NewServerRole, _N.RESTORED, _NE.REFUSAL, (), _N.RESTORED),
    "discards after the commit": row(
        NewServerRole, _N.CONFIRMING, _NE.MIGRATE_SYN, (_NA.STOP_TIMERS, _NA.DISCARD), _N.FAILED
    ),
    "ACK3 for what was given up": ack3_for_given_up,
    "commits to what was given up": commit_without_looking,
    "aborts after the commit": abort_after_commit,
    "no ABORT": row(ClientRole, _C.WITHDRAWING, _CE.KEPT, (_CA.SEND_REFUSAL, _CA.REPORT_KEPT), _C.TRACKED),
    "REFUSAL taken for ABORT": refusal_is_abort,
}
