"""The protocol's states, as tables: (state, event) -> (actions, next state), one table per role.

This file is the protocol; the roles in `mtcp.roles` only say what each action is made of. A pair that is absent is
an error: a LocalProtocolError when we asked for it, a RemoteProtocolError when the other side did.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from mtcp.errors import LocalProtocolError, RemoteProtocolError


class State(Enum):
    """Base of the three roles' states."""


class Event(Enum):
    """Base of the three roles' events."""


class Action(Enum):
    """Base of the three roles' actions."""


Table = Mapping[tuple[State, Event], tuple[tuple[Action, ...], State]]


class Client(State):
    """A connection at the client."""

    TRACKED = auto()
    SS_ISMIGRATING = auto()
    WITHDRAWING = auto()
    """The move shall end; the mapping is being asked whether it has committed."""
    ABORTING = auto()
    """It has not; the old server is being told until it confirms."""
    GONE = auto()


class ClientEvent(Event):
    MIGRATE = auto()
    RETRY = auto()
    GIVE_UP = auto()
    ACCEPT = auto()
    GIVEN_UP_ACCEPT = auto()
    """An ACCEPT of an attempt that was given up: that server must not go on."""
    REJECT = auto()
    COMMITTED = auto()
    KEPT = auto()
    """The mapping was asked to end the move, and had not committed."""
    ABORT_ACK = auto()
    CLOSED = auto()


class ClientAction(Action):
    BEGIN_MAPPING = auto()
    ABORT_MAPPING = auto()
    SEND_MIGRATE = auto()
    SEND_ACK3 = auto()
    SEND_ABORT = auto()
    SEND_REFUSAL = auto()
    """ABORT to the new server."""
    START_TIMERS = auto()
    STOP_TIMERS = auto()
    REPORT_MOVED = auto()
    REPORT_KEPT = auto()


_C, _CE, _CA = Client, ClientEvent, ClientAction
CLIENT: Table = {
    (_C.TRACKED, _CE.MIGRATE): ((_CA.BEGIN_MAPPING, _CA.SEND_MIGRATE, _CA.START_TIMERS), _C.SS_ISMIGRATING),
    (_C.TRACKED, _CE.ACCEPT): ((_CA.SEND_ACK3,), _C.TRACKED),
    (_C.TRACKED, _CE.GIVEN_UP_ACCEPT): ((_CA.SEND_REFUSAL,), _C.TRACKED),
    (_C.TRACKED, _CE.COMMITTED): ((), _C.TRACKED),
    (_C.TRACKED, _CE.REJECT): ((), _C.TRACKED),
    (_C.TRACKED, _CE.ABORT_ACK): ((), _C.TRACKED),
    (_C.TRACKED, _CE.CLOSED): ((), _C.GONE),
    (_C.SS_ISMIGRATING, _CE.RETRY): ((_CA.SEND_MIGRATE,), _C.SS_ISMIGRATING),
    (_C.SS_ISMIGRATING, _CE.ACCEPT): ((), _C.SS_ISMIGRATING),
    (_C.SS_ISMIGRATING, _CE.GIVEN_UP_ACCEPT): ((_CA.SEND_REFUSAL,), _C.SS_ISMIGRATING),
    (_C.SS_ISMIGRATING, _CE.COMMITTED): ((_CA.STOP_TIMERS, _CA.SEND_ACK3, _CA.REPORT_MOVED), _C.TRACKED),
    (_C.SS_ISMIGRATING, _CE.REJECT): ((_CA.ABORT_MAPPING,), _C.WITHDRAWING),
    (_C.SS_ISMIGRATING, _CE.GIVE_UP): ((_CA.ABORT_MAPPING,), _C.WITHDRAWING),
    (_C.SS_ISMIGRATING, _CE.CLOSED): ((_CA.STOP_TIMERS, _CA.REPORT_KEPT), _C.GONE),
    (_C.WITHDRAWING, _CE.COMMITTED): ((_CA.STOP_TIMERS, _CA.SEND_ACK3, _CA.REPORT_MOVED), _C.TRACKED),
    (_C.WITHDRAWING, _CE.KEPT): (
        (_CA.SEND_ABORT, _CA.SEND_REFUSAL, _CA.START_TIMERS, _CA.REPORT_KEPT),
        _C.ABORTING,
    ),
    (_C.ABORTING, _CE.RETRY): ((_CA.SEND_ABORT,), _C.ABORTING),
    (_C.ABORTING, _CE.ABORT_ACK): ((_CA.STOP_TIMERS,), _C.TRACKED),
    (_C.ABORTING, _CE.GIVEN_UP_ACCEPT): ((_CA.SEND_REFUSAL,), _C.ABORTING),
    (_C.ABORTING, _CE.REJECT): ((), _C.ABORTING),
    (_C.ABORTING, _CE.GIVE_UP): ((_CA.STOP_TIMERS,), _C.TRACKED),
    (_C.ABORTING, _CE.CLOSED): ((_CA.STOP_TIMERS,), _C.GONE),
}


class OldServer(State):
    """A connection at the server that has it."""

    ESTABLISHED = auto()
    FENCED = auto()
    MIGRATED = auto()
    """Closed silently here; kept for a while to answer repeated messages."""
    CLOSED = auto()


class OldServerEvent(Event):
    STATE_REQUEST = auto()
    REPEATED_REQUEST = auto()
    BAD_REQUEST = auto()
    DUMP_FAILED = auto()
    DONE = auto()
    ABORT = auto()
    STALE_ABORT = auto()
    CLOSED = auto()


class OldServerAction(Action):
    FENCE_AND_DUMP = auto()
    SEND_STATE_REPLY = auto()
    SEND_STATE_REJECT = auto()
    RESUME = auto()
    CLOSE_SILENTLY = auto()
    SEND_DONE_ACK = auto()
    SEND_ABORT_ACK = auto()


_O, _OE, _OA = OldServer, OldServerEvent, OldServerAction
OLD_SERVER: Table = {
    (_O.ESTABLISHED, _OE.STATE_REQUEST): ((_OA.FENCE_AND_DUMP, _OA.SEND_STATE_REPLY), _O.FENCED),
    (_O.ESTABLISHED, _OE.BAD_REQUEST): ((_OA.SEND_STATE_REJECT,), _O.ESTABLISHED),
    (_O.ESTABLISHED, _OE.ABORT): ((_OA.SEND_ABORT_ACK,), _O.ESTABLISHED),
    (_O.ESTABLISHED, _OE.STALE_ABORT): ((_OA.SEND_ABORT_ACK,), _O.ESTABLISHED),
    (_O.ESTABLISHED, _OE.CLOSED): ((), _O.CLOSED),
    (_O.FENCED, _OE.REPEATED_REQUEST): ((_OA.SEND_STATE_REPLY,), _O.FENCED),
    (_O.FENCED, _OE.BAD_REQUEST): ((_OA.SEND_STATE_REJECT,), _O.FENCED),
    (_O.FENCED, _OE.DUMP_FAILED): ((_OA.RESUME, _OA.SEND_STATE_REJECT), _O.ESTABLISHED),
    (_O.FENCED, _OE.DONE): ((_OA.CLOSE_SILENTLY, _OA.SEND_DONE_ACK), _O.MIGRATED),
    (_O.FENCED, _OE.ABORT): ((_OA.RESUME, _OA.SEND_ABORT_ACK), _O.ESTABLISHED),
    (_O.FENCED, _OE.STALE_ABORT): ((_OA.SEND_ABORT_ACK,), _O.FENCED),
    (_O.FENCED, _OE.CLOSED): ((), _O.FENCED),
    (_O.MIGRATED, _OE.DONE): ((_OA.SEND_DONE_ACK,), _O.MIGRATED),
    (_O.MIGRATED, _OE.BAD_REQUEST): ((_OA.SEND_STATE_REJECT,), _O.MIGRATED),
    (_O.MIGRATED, _OE.CLOSED): ((), _O.MIGRATED),
}


class NewServer(State):
    """One attempt to take a connection."""

    LISTEN = auto()
    REQUESTED = auto()
    RESTORED = auto()
    CONFIRMING = auto()
    """The client has committed; the old server is being told until it confirms."""
    OWNED = auto()
    FAILED = auto()


class NewServerEvent(Event):
    MIGRATE_SYN = auto()
    NO_APPLICATION = auto()
    RETRY = auto()
    GIVE_UP = auto()
    STATE_REPLY = auto()
    STATE_REJECT = auto()
    RESTORE_FAILED = auto()
    ACK3 = auto()
    ABORT = auto()
    DONE_ACK = auto()


class NewServerAction(Action):
    SEND_STATE_REQUEST = auto()
    RESTORE = auto()
    SEND_ACCEPT = auto()
    SEND_REJECT = auto()
    SEND_DONE = auto()
    START_TIMERS = auto()
    STOP_TIMERS = auto()
    DISCARD = auto()


_N, _NE, _NA = NewServer, NewServerEvent, NewServerAction
NEW_SERVER: Table = {
    (_N.LISTEN, _NE.MIGRATE_SYN): ((_NA.SEND_STATE_REQUEST, _NA.START_TIMERS), _N.REQUESTED),
    (_N.LISTEN, _NE.NO_APPLICATION): ((_NA.SEND_REJECT,), _N.FAILED),
    (_N.REQUESTED, _NE.MIGRATE_SYN): ((), _N.REQUESTED),
    (_N.REQUESTED, _NE.RETRY): ((_NA.SEND_STATE_REQUEST,), _N.REQUESTED),
    (_N.REQUESTED, _NE.GIVE_UP): ((_NA.STOP_TIMERS, _NA.SEND_REJECT), _N.FAILED),
    (_N.REQUESTED, _NE.STATE_REPLY): ((_NA.START_TIMERS, _NA.RESTORE, _NA.SEND_ACCEPT), _N.RESTORED),
    (_N.REQUESTED, _NE.STATE_REJECT): ((_NA.STOP_TIMERS, _NA.SEND_REJECT), _N.FAILED),
    (_N.RESTORED, _NE.RESTORE_FAILED): ((_NA.STOP_TIMERS, _NA.SEND_REJECT), _N.FAILED),
    (_N.RESTORED, _NE.MIGRATE_SYN): ((_NA.SEND_ACCEPT,), _N.RESTORED),
    (_N.RESTORED, _NE.RETRY): ((_NA.SEND_ACCEPT,), _N.RESTORED),
    (_N.RESTORED, _NE.STATE_REPLY): ((), _N.RESTORED),
    (_N.RESTORED, _NE.ACK3): ((_NA.SEND_DONE, _NA.START_TIMERS), _N.CONFIRMING),
    (_N.RESTORED, _NE.ABORT): ((_NA.STOP_TIMERS, _NA.DISCARD), _N.FAILED),
    (_N.RESTORED, _NE.GIVE_UP): ((_NA.STOP_TIMERS, _NA.DISCARD), _N.FAILED),
    (_N.CONFIRMING, _NE.RETRY): ((_NA.SEND_DONE,), _N.CONFIRMING),
    (_N.CONFIRMING, _NE.ACK3): ((), _N.CONFIRMING),
    (_N.CONFIRMING, _NE.MIGRATE_SYN): ((_NA.SEND_ACCEPT,), _N.CONFIRMING),
    (_N.CONFIRMING, _NE.STATE_REPLY): ((), _N.CONFIRMING),
    (_N.CONFIRMING, _NE.DONE_ACK): ((_NA.STOP_TIMERS,), _N.OWNED),
    (_N.CONFIRMING, _NE.GIVE_UP): ((_NA.STOP_TIMERS,), _N.OWNED),
    (_N.OWNED, _NE.MIGRATE_SYN): ((_NA.SEND_ACCEPT,), _N.OWNED),
    (_N.OWNED, _NE.ACK3): ((), _N.OWNED),
    (_N.OWNED, _NE.DONE_ACK): ((), _N.OWNED),
    (_N.OWNED, _NE.STATE_REPLY): ((), _N.OWNED),
    (_N.FAILED, _NE.MIGRATE_SYN): ((_NA.SEND_REJECT,), _N.FAILED),
    (_N.FAILED, _NE.STATE_REPLY): ((), _N.FAILED),
    (_N.FAILED, _NE.STATE_REJECT): ((), _N.FAILED),
    (_N.FAILED, _NE.ACK3): ((), _N.FAILED),
    (_N.FAILED, _NE.ABORT): ((), _N.FAILED),
}

LOCAL_EVENTS: frozenset[Event] = frozenset(
    {
        _CE.MIGRATE,
        _CE.RETRY,
        _CE.GIVE_UP,
        _CE.COMMITTED,
        _CE.KEPT,
        _OE.DUMP_FAILED,
        _NE.RETRY,
        _NE.GIVE_UP,
        _NE.NO_APPLICATION,
        _NE.RESTORE_FAILED,
    }
)
"""Events that this side makes itself; all others come from outside."""


def step(table: Table, state: State, event: Event) -> tuple[tuple[Action, ...], State]:
    """Look the pair up; LocalProtocolError or RemoteProtocolError when the table lacks it."""
    try:
        return table[state, event]
    except KeyError:
        error = LocalProtocolError if event in LOCAL_EVENTS else RemoteProtocolError
        raise error(f"{event.name} cannot happen in state {state.name}") from None
