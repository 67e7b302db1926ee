"""The three tables, taken as data: nothing unreachable, nothing undefined, nothing that a role cannot do."""

from __future__ import annotations

from itertools import product

import pytest

from mtcp import states
from mtcp.errors import LocalProtocolError, RemoteProtocolError
from mtcp.roles.client import ClientRole
from mtcp.roles.machine import Machine
from mtcp.roles.new_server import NewServerRole
from mtcp.roles.old_server import OldServerRole
from mtcp.states import (
    CLIENT,
    LOCAL_EVENTS,
    NEW_SERVER,
    OLD_SERVER,
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
    Table,
)

pytestmark = pytest.mark.unit
Role = tuple[Table, type[State], type[Event], type[Action], State, type[Machine]]
ROLES: list[Role] = [
    (CLIENT, Client, ClientEvent, ClientAction, Client.TRACKED, ClientRole),
    (OLD_SERVER, OldServer, OldServerEvent, OldServerAction, OldServer.ESTABLISHED, OldServerRole),
    (NEW_SERVER, NewServer, NewServerEvent, NewServerAction, NewServer.LISTEN, NewServerRole),
]
_COMMITTING = (NewServer.RESTORED, NewServer.CONFIRMING)
roles = pytest.mark.parametrize("role", ROLES, ids=["client", "old server", "new server"])


@roles
def test_every_pair_is_in_the_table_or_an_error(role: Role) -> None:
    table, all_states, all_events, *_ = role
    for state, event in product(all_states, all_events):
        if (state, event) in table:
            assert states.step(table, state, event) == table[state, event]
        else:
            error = LocalProtocolError if event in LOCAL_EVENTS else RemoteProtocolError
            with pytest.raises(error, match=f"{event.name} cannot happen in state {state.name}"):
                states.step(table, state, event)


@roles
def test_rows_stay_within_their_role(role: Role) -> None:
    table, all_states, all_events, all_actions, _, _ = role
    for (state, event), (actions, following) in table.items():
        assert isinstance(state, all_states) and isinstance(following, all_states)
        assert isinstance(event, all_events)
        assert all(isinstance(action, all_actions) for action in actions)


@roles
def test_every_state_is_reached_and_every_event_and_action_used(role: Role) -> None:
    table, all_states, all_events, all_actions, start, _ = role
    reached, frontier = {start}, [start]
    while frontier:
        here = frontier.pop()
        following = {after for (before, _), (_, after) in table.items() if before is here} - reached
        reached |= following
        frontier += following
    assert reached == set(all_states)
    assert {event for _, event in table} == set(all_events)
    assert {action for actions, _ in table.values() for action in actions} == set(all_actions)


@roles
def test_the_role_can_do_every_action(role: Role) -> None:
    *_, all_actions, _, machine = role
    for action in all_actions:
        assert callable(getattr(machine, action.name.lower(), None)), action


@roles
def test_a_state_with_a_timer_has_a_way_out(role: Role) -> None:
    """Where RETRY may happen, GIVE_UP may, and leads elsewhere: nothing is repeated for ever."""
    table, *_, machine = role
    for (state, event), _ in table.items():
        if event is getattr(machine, "retry_event", None):
            assert table[state, machine.give_up_event][1] is not state


@roles
def test_timers_stop_where_retries_end(role: Role) -> None:
    """Who goes from a state with retries to one without has stopped the timer, or its firing would be an error."""
    table, *_, machine = role
    retry = getattr(machine, "retry_event", None)
    for (state, event), (actions, following) in table.items():
        if (state, retry) in table and (following, retry) not in table and event is not machine.give_up_event:
            names = {action.name for action in actions}
            assert names & {"STOP_TIMERS", "ABORT_MAPPING"}, (state, event)


@roles
def test_timers_start_where_retries_begin(role: Role) -> None:
    """Who enters a state with retries has started the timer, or would wait there for ever."""
    table, *_, machine = role
    retry = getattr(machine, "retry_event", None)
    for (state, event), (actions, following) in table.items():
        if (state, retry) not in table and (following, retry) in table:
            names = {action.name for action in actions}
            assert names & {"START_TIMERS", "START_LEASE"}, (state, event)


@roles
def test_repeating_changes_nothing(role: Role) -> None:
    table, *_, machine = role
    for (state, event), (_, following) in table.items():
        if event is machine.retry_event:
            assert following is state


def test_what_unfences_is_word_of_the_client_and_never_time() -> None:
    unfencing = {event for (_, event), (actions, _) in OLD_SERVER.items() if OldServerAction.RESUME in actions}
    E = OldServerEvent  # RELEASE is the client's word, too: it proves so
    assert unfencing == {E.ABORT, E.RELEASE, E.LATER_REQUEST, E.DUMP_FAILED}


def test_only_a_server_that_knows_of_the_commit_says_so() -> None:
    done = {state for (_, event), (actions, state) in NEW_SERVER.items() if NewServerAction.SEND_DONE in actions}
    assert done == {NewServer.CONFIRMING, NewServer.OWNED}
    entering = {event for (state, event), (_, after) in NEW_SERVER.items() if (state, after) == _COMMITTING}
    assert entering == {NewServerEvent.ACK3}


def test_giving_up_stops_repeating_the_migrate_while_the_mapping_is_asked() -> None:
    """WITHDRAWING has no timer of its own: the mapping's answer comes within the same call."""
    events = {event for state, event in CLIENT if state is Client.WITHDRAWING}
    assert events == {ClientEvent.COMMITTED, ClientEvent.KEPT}
    events = {event for state, event in CLIENT if state is Client.CLOSING}
    assert events == {ClientEvent.COMMITTED, ClientEvent.KEPT}
