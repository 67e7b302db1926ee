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
    CLOSING = auto()
    """The socket has gone in mid-move; the mapping is being asked whether it had committed."""
    GONE = auto()


class ClientEvent(Event):
    MIGRATE = auto()
    RECOVERED = auto()
    """This host's agent has begun anew, and found the mapping in the middle of a move."""
    RETRY = auto()
    GIVE_UP = auto()
    ACCEPT = auto()
    LATE_ACCEPT = auto()
    """An ACCEPT of the server that has the connection: it has not heard so yet."""
    GIVEN_UP_ACCEPT = auto()
    """An ACCEPT of an attempt that was given up, or is over: that server must not go on."""
    REJECT = auto()
    COMMITTED = auto()
    KEPT = auto()
    """The mapping was asked to end the move, and had not committed."""
    ABORT_ACK = auto()
    EARLY_QUERY = auto()
    """A server asks what became of an attempt that is not decided yet."""
    OWNERS_QUERY = auto()
    """The server that has the connection asks: what could have taken it away has failed."""
    STRANGERS_QUERY = auto()
    """A server that has lost the connection, or was never given it, asks."""
    CLOSED = auto()


class ClientAction(Action):
    BEGIN_MAPPING = auto()
    ABORT_MAPPING = auto()
    SEND_MIGRATE = auto()
    SEND_ACK3 = auto()
    SEND_ABORT = auto()
    SEND_REFUSAL = auto()
    """To the new server."""
    ANSWER_ABORT = auto()
    ANSWER_ACK3 = auto()
    ANSWER_REFUSAL = auto()
    """To whoever asked."""
    START_TIMERS = auto()
    STOP_TIMERS = auto()
    REPORT_MOVED = auto()
    REPORT_KEPT = auto()


_C, _CE, _CA = Client, ClientEvent, ClientAction
_CLIENT_MOVED = (_CA.STOP_TIMERS, _CA.SEND_ACK3, _CA.REPORT_MOVED)
# Not before the old server has opened its fence: who is told that it stays may ask for the next move at once.
_CLIENT_KEPT = (_CA.STOP_TIMERS, _CA.REPORT_KEPT)
_CLIENT_MOVING: Table = {
    (_C.TRACKED, _CE.MIGRATE): ((_CA.BEGIN_MAPPING, _CA.SEND_MIGRATE, _CA.START_TIMERS), _C.SS_ISMIGRATING),
    (_C.TRACKED, _CE.RECOVERED): ((_CA.ABORT_MAPPING,), _C.WITHDRAWING),
    (_C.TRACKED, _CE.COMMITTED): ((), _C.TRACKED),
    (_C.TRACKED, _CE.REJECT): ((), _C.TRACKED),
    (_C.TRACKED, _CE.ABORT_ACK): ((), _C.TRACKED),
    (_C.TRACKED, _CE.CLOSED): ((), _C.GONE),
    (_C.SS_ISMIGRATING, _CE.RETRY): ((_CA.SEND_MIGRATE,), _C.SS_ISMIGRATING),
    (_C.SS_ISMIGRATING, _CE.ACCEPT): ((), _C.SS_ISMIGRATING),
    (_C.SS_ISMIGRATING, _CE.EARLY_QUERY): ((), _C.SS_ISMIGRATING),
    (_C.SS_ISMIGRATING, _CE.COMMITTED): (_CLIENT_MOVED, _C.TRACKED),
    (_C.SS_ISMIGRATING, _CE.REJECT): ((_CA.ABORT_MAPPING,), _C.WITHDRAWING),
    (_C.SS_ISMIGRATING, _CE.GIVE_UP): ((_CA.ABORT_MAPPING,), _C.WITHDRAWING),
    (_C.SS_ISMIGRATING, _CE.CLOSED): ((_CA.ABORT_MAPPING,), _C.CLOSING),
    (_C.WITHDRAWING, _CE.COMMITTED): (_CLIENT_MOVED, _C.TRACKED),
    (_C.WITHDRAWING, _CE.KEPT): ((_CA.SEND_ABORT, _CA.SEND_REFUSAL, _CA.START_TIMERS), _C.ABORTING),
    (_C.CLOSING, _CE.COMMITTED): (_CLIENT_MOVED, _C.GONE),
    (_C.CLOSING, _CE.KEPT): ((_CA.STOP_TIMERS, _CA.SEND_ABORT, _CA.SEND_REFUSAL, _CA.REPORT_KEPT), _C.GONE),
    (_C.ABORTING, _CE.RETRY): ((_CA.SEND_ABORT,), _C.ABORTING),
    (_C.ABORTING, _CE.ABORT_ACK): (_CLIENT_KEPT, _C.TRACKED),
    (_C.ABORTING, _CE.REJECT): ((), _C.ABORTING),
    (_C.ABORTING, _CE.GIVE_UP): (_CLIENT_KEPT, _C.TRACKED),
    (_C.ABORTING, _CE.CLOSED): (_CLIENT_KEPT, _C.GONE),
    (_C.GONE, _CE.REJECT): ((), _C.GONE),
    (_C.GONE, _CE.ABORT_ACK): ((), _C.GONE),
}
_CLIENT_ANSWERS: Table = {
    pair: result
    for state in (_C.TRACKED, _C.SS_ISMIGRATING, _C.ABORTING, _C.GONE)
    for pair, result in {
        (state, _CE.LATE_ACCEPT): ((_CA.ANSWER_ACK3,), state),
        (state, _CE.GIVEN_UP_ACCEPT): ((_CA.ANSWER_REFUSAL,), state),
        (state, _CE.OWNERS_QUERY): ((_CA.ANSWER_ABORT,), state),
        (state, _CE.STRANGERS_QUERY): ((_CA.ANSWER_REFUSAL,), state),
    }.items()
}
"""What the client answers servers that have not heard how an attempt ended, wherever it is itself."""
CLIENT: Table = {**_CLIENT_MOVING, **_CLIENT_ANSWERS}


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
    RENEWED_REQUEST = auto()
    """A repeated one, whose answer this host's agent has lost with its predecessor."""
    LATER_REQUEST = auto()
    """The client tries again: it has given up the attempt for which the connection is fenced."""
    BAD_REQUEST = auto()
    DUMP_FAILED = auto()
    RENEWED_DUMP_FAILED = auto()
    """The state cannot be told once more; whether it has been told before is not known."""
    DONE = auto()
    CAME_BACK = auto()
    """Another server gives the connection back: the client had committed, whether anybody has said so or not."""
    ABORT = auto()
    STALE_ABORT = auto()
    RELEASE = auto()
    """The client's ABORT, by way of the new server."""
    REFUSAL = auto()
    """The client says that it is elsewhere."""
    RECOVERED = auto()
    """This host's agent has begun anew, and found the connection fenced."""
    RETRY = auto()
    GIVE_UP = auto()
    CLOSED = auto()


class OldServerAction(Action):
    FENCE_AND_DUMP = auto()
    SEND_STATE_REPLY = auto()
    SEND_STATE_REJECT = auto()
    RESUME = auto()
    CLOSE_SILENTLY = auto()
    SEND_DONE_ACK = auto()
    SEND_ABORT_ACK = auto()
    SEND_QUERY = auto()
    """To the client and to the new server."""
    START_LEASE = auto()
    STOP_TIMERS = auto()


_O, _OE, _OA = OldServer, OldServerEvent, OldServerAction
_RESUMED = (_OA.STOP_TIMERS, _OA.RESUME)
_LOST = (_OA.STOP_TIMERS, _OA.CLOSE_SILENTLY)
OLD_SERVER: Table = {
    (_O.ESTABLISHED, _OE.STATE_REQUEST): (
        (_OA.START_LEASE, _OA.FENCE_AND_DUMP, _OA.SEND_STATE_REPLY),
        _O.FENCED,
    ),
    (_O.ESTABLISHED, _OE.BAD_REQUEST): ((_OA.SEND_STATE_REJECT,), _O.ESTABLISHED),
    (_O.ESTABLISHED, _OE.ABORT): ((_OA.SEND_ABORT_ACK,), _O.ESTABLISHED),
    (_O.ESTABLISHED, _OE.STALE_ABORT): ((_OA.SEND_ABORT_ACK,), _O.ESTABLISHED),
    (_O.ESTABLISHED, _OE.RELEASE): ((), _O.ESTABLISHED),
    (_O.ESTABLISHED, _OE.RECOVERED): ((_OA.START_LEASE, _OA.SEND_QUERY), _O.FENCED),
    (_O.ESTABLISHED, _OE.CLOSED): ((), _O.CLOSED),
    (_O.FENCED, _OE.REPEATED_REQUEST): ((_OA.SEND_STATE_REPLY,), _O.FENCED),
    (_O.FENCED, _OE.RENEWED_REQUEST): ((_OA.FENCE_AND_DUMP, _OA.SEND_STATE_REPLY), _O.FENCED),
    (_O.FENCED, _OE.LATER_REQUEST): (
        (_OA.RESUME, _OA.START_LEASE, _OA.FENCE_AND_DUMP, _OA.SEND_STATE_REPLY),
        _O.FENCED,
    ),
    (_O.FENCED, _OE.BAD_REQUEST): ((_OA.SEND_STATE_REJECT,), _O.FENCED),
    (_O.FENCED, _OE.DUMP_FAILED): ((*_RESUMED, _OA.SEND_STATE_REJECT), _O.ESTABLISHED),
    (_O.FENCED, _OE.RENEWED_DUMP_FAILED): ((_OA.SEND_STATE_REJECT,), _O.FENCED),
    (_O.FENCED, _OE.RETRY): ((_OA.SEND_QUERY,), _O.FENCED),
    (_O.FENCED, _OE.DONE): ((*_LOST, _OA.SEND_DONE_ACK), _O.MIGRATED),
    (_O.FENCED, _OE.REFUSAL): (_LOST, _O.MIGRATED),
    (_O.FENCED, _OE.CAME_BACK): (_LOST, _O.MIGRATED),
    (_O.FENCED, _OE.GIVE_UP): (_LOST, _O.MIGRATED),
    (_O.FENCED, _OE.ABORT): ((*_RESUMED, _OA.SEND_ABORT_ACK), _O.ESTABLISHED),
    (_O.FENCED, _OE.RELEASE): (_RESUMED, _O.ESTABLISHED),
    (_O.FENCED, _OE.STALE_ABORT): ((_OA.SEND_ABORT_ACK,), _O.FENCED),
    (_O.FENCED, _OE.CLOSED): ((), _O.FENCED),
    (_O.MIGRATED, _OE.DONE): ((_OA.SEND_DONE_ACK,), _O.MIGRATED),
    (_O.CLOSED, _OE.ABORT): ((_OA.SEND_ABORT_ACK,), _O.CLOSED),
    (_O.CLOSED, _OE.STALE_ABORT): ((_OA.SEND_ABORT_ACK,), _O.CLOSED),
    **{
        pair: result
        for state in (_O.MIGRATED, _O.CLOSED)
        for pair, result in {
            (state, _OE.BAD_REQUEST): ((_OA.SEND_STATE_REJECT,), state),
            (state, _OE.REFUSAL): ((), state),
            (state, _OE.RELEASE): ((), state),
            (state, _OE.CAME_BACK): ((), state),
            (state, _OE.CLOSED): ((), state),
        }.items()
    },
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
    RECOVERED = auto()
    """This host's agent has begun anew, and found the connection restored, but nobody's word that the client came."""
    UNWILLING = auto()
    RETRY = auto()
    GIVE_UP = auto()
    STATE_REPLY = auto()
    STATE_REJECT = auto()
    RESTORE_FAILED = auto()
    ACK3 = auto()
    REFUSAL = auto()
    SUPERSEDED = auto()
    """The old server has answered a later attempt: the client has given this one up, or it has been and gone."""
    QUERY = auto()
    DONE_ACK = auto()


class NewServerAction(Action):
    SEND_STATE_REQUEST = auto()
    RESTORE = auto()
    SEND_ACCEPT = auto()
    SEND_REJECT = auto()
    SEND_DONE = auto()
    SEND_RELEASE = auto()
    """If the client has said that it has given the attempt up."""
    START_TIMERS = auto()
    START_LEASE = auto()
    STOP_TIMERS = auto()
    DISCARD = auto()


_N, _NE, _NA = NewServer, NewServerEvent, NewServerAction
_DROPPED = (_NA.STOP_TIMERS, _NA.DISCARD)
NEW_SERVER: Table = {
    (_N.LISTEN, _NE.MIGRATE_SYN): ((_NA.SEND_STATE_REQUEST, _NA.START_TIMERS), _N.REQUESTED),
    (_N.LISTEN, _NE.RECOVERED): ((_NA.START_LEASE, _NA.SEND_ACCEPT), _N.RESTORED),
    (_N.LISTEN, _NE.UNWILLING): ((_NA.SEND_REJECT,), _N.FAILED),
    (_N.REQUESTED, _NE.MIGRATE_SYN): ((), _N.REQUESTED),
    (_N.REQUESTED, _NE.RETRY): ((_NA.SEND_STATE_REQUEST,), _N.REQUESTED),
    (_N.REQUESTED, _NE.GIVE_UP): ((_NA.STOP_TIMERS, _NA.SEND_REJECT), _N.FAILED),
    (_N.REQUESTED, _NE.STATE_REPLY): ((_NA.START_LEASE, _NA.RESTORE, _NA.SEND_ACCEPT), _N.RESTORED),
    (_N.REQUESTED, _NE.STATE_REJECT): ((_NA.STOP_TIMERS, _NA.SEND_REJECT), _N.FAILED),
    (_N.REQUESTED, _NE.SUPERSEDED): ((_NA.STOP_TIMERS,), _N.FAILED),
    (_N.REQUESTED, _NE.QUERY): ((), _N.REQUESTED),
    (_N.RESTORED, _NE.RESTORE_FAILED): ((_NA.STOP_TIMERS, _NA.SEND_REJECT), _N.FAILED),
    (_N.RESTORED, _NE.MIGRATE_SYN): ((_NA.SEND_ACCEPT,), _N.RESTORED),
    (_N.RESTORED, _NE.RETRY): ((_NA.SEND_ACCEPT,), _N.RESTORED),
    (_N.RESTORED, _NE.STATE_REPLY): ((), _N.RESTORED),
    (_N.RESTORED, _NE.QUERY): ((), _N.RESTORED),
    (_N.RESTORED, _NE.ACK3): ((_NA.SEND_DONE, _NA.START_TIMERS), _N.CONFIRMING),
    (_N.RESTORED, _NE.REFUSAL): ((*_DROPPED, _NA.SEND_RELEASE), _N.FAILED),
    (_N.RESTORED, _NE.SUPERSEDED): (_DROPPED, _N.FAILED),
    (_N.RESTORED, _NE.GIVE_UP): (_DROPPED, _N.FAILED),
    (_N.CONFIRMING, _NE.RETRY): ((_NA.SEND_DONE,), _N.CONFIRMING),
    (_N.CONFIRMING, _NE.DONE_ACK): ((_NA.STOP_TIMERS,), _N.OWNED),
    (_N.CONFIRMING, _NE.GIVE_UP): ((_NA.STOP_TIMERS,), _N.OWNED),
    **{
        pair: result
        for state in (_N.CONFIRMING, _N.OWNED)
        for pair, result in {
            (state, _NE.MIGRATE_SYN): ((_NA.SEND_ACCEPT,), state),
            (state, _NE.ACK3): ((), state),
            (state, _NE.STATE_REPLY): ((), state),
            (state, _NE.SUPERSEDED): ((), state),
            (state, _NE.QUERY): ((_NA.SEND_DONE,), state),
        }.items()
    },
    (_N.OWNED, _NE.DONE_ACK): ((), _N.OWNED),
    (_N.FAILED, _NE.MIGRATE_SYN): ((_NA.SEND_REJECT,), _N.FAILED),
    (_N.FAILED, _NE.STATE_REPLY): ((), _N.FAILED),
    (_N.FAILED, _NE.STATE_REJECT): ((), _N.FAILED),
    (_N.FAILED, _NE.SUPERSEDED): ((), _N.FAILED),
    (_N.FAILED, _NE.QUERY): ((_NA.SEND_RELEASE,), _N.FAILED),
    (_N.FAILED, _NE.ACK3): ((), _N.FAILED),
    (_N.FAILED, _NE.REFUSAL): ((_NA.SEND_RELEASE,), _N.FAILED),
}

LOCAL_EVENTS: frozenset[Event] = frozenset(
    {
        _CE.MIGRATE,
        _CE.RECOVERED,
        _CE.RETRY,
        _CE.GIVE_UP,
        _CE.COMMITTED,
        _CE.KEPT,
        _OE.DUMP_FAILED,
        _OE.RENEWED_DUMP_FAILED,
        _OE.RECOVERED,
        _OE.RETRY,
        _OE.GIVE_UP,
        _NE.RECOVERED,
        _NE.RETRY,
        _NE.GIVE_UP,
        _NE.UNWILLING,
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
