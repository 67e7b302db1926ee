"""One client's connection, without I/O: a generator of actions, to which the driver sends what came of each.

What is still to be written always follows from the last export and the client's stream, or the connection is held:

    response                                       when the connection may move
    bytes of a file that can be told from others   at any time: the new server asks its own for the rest
    no body, or a short one of known length        at any time: once all of it is here, it is in the state
    anything else (made on the fly, long)          not from its first byte to its last

A request that is not safe to make twice holds the connection from before its first byte goes to the server until its
response is in the state, or written. A connection that is held still moves if the sidecar that has it dies: its client
is told that nobody knows what became of the request, or, if it has a part of the response, the connection is reset.
"""

from __future__ import annotations

from http import HTTPStatus

import h11

from mtcp.sidecar import messages
from mtcp.sidecar.actions import Discard, End, Export, Forward, Read, Relay, Steps, Write
from mtcp.sidecar.rest import HEAD_MAX, Broken, Upstream, buffered, whole
from mtcp.sidecar.state import State

SHORT = 1 << 16
"""Bytes of a body that goes into the state as a whole."""
NO_UPGRADE = "{} is not supported by mtcp sidecar: such a connection could not move to another server."
NO_SERVER = "The server behind this one, {}, {}."
IN_DOUBT = "The server died before it had answered. Whether it has done what it was asked to do is not known."
OFTEN = 1 << 18
"""Bytes of a request's body between two exports: what was read since the last one moves along."""


class _Gone(Exception):
    """The client has ended its stream between two requests."""


class Session:
    """See above."""

    def __init__(self, client: str, upstream: str) -> None:
        """`client`: its address. `upstream`: the server's, as it is called in a request that does not say."""
        self._client, self._address = client, upstream
        self._upstream = Upstream()
        self._held, self._read = State(), 0
        """The last export that holds the connection, and bytes of the client read since."""

    def run(self, state: State | None = None) -> Steps:
        """The actions, to the last. `state`: what another instance has left."""
        try:
            if state is None:
                state = State()
            if state.lost:
                raise Broken("the server died in the midst of a response that only it could go on with")
            if state.head:
                yield Write(state.head)
            if state.part is not None:
                skipped = yield Discard(state.part.end - state.part.first)
                yield from self._upstream.rest(state.part, state.part.first + skipped)
            while not state.close:
                state = yield from self._exchange(state.unread)
            yield End()
        except _Gone:
            yield End()
        except (Broken, h11.ProtocolError) as error:
            yield End(str(error))

    # -- requests

    def _exchange(self, unread: bytes) -> Steps:
        """Read a request and have it answered; the state after that."""
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
        try:
            request = yield from self._request(http, unread)
            if not messages.has_body(request):
                http.next_event()
        except h11.RemoteProtocolError as error:
            return (yield from self._say(http, error.error_status_hint, str(error)))
        if request.method == b"CONNECT" or messages.wants_websocket(request):
            what = "CONNECT" if request.method == b"CONNECT" else "WebSocket"
            return (yield from self._say(http, 501, NO_UPGRADE.format(what)))
        if not messages.is_safe(request):
            yield from self._hold(_in_doubt())
            # One that has been waiting may just be ending, and then nobody knows what became of the request.
            self._upstream.is_open = False
        was_open = self._upstream.is_open
        if not was_open and not (yield from self._upstream.connect()):
            return (yield from self._say(http, 502, NO_SERVER.format(self._address, "takes no connection")))
        state = yield from self._forward(http, request)
        if state is None and was_open and (yield from self._upstream.connect()):
            state = yield from self._forward(http, request)
        if state is None:
            self._upstream.is_open = False
            return (yield from self._say(http, 502, NO_SERVER.format(self._address, "has not answered")))
        return state

    def _request(self, http: h11.Connection, unread: bytes) -> Steps:
        if unread:
            http.receive_data(unread)
        while True:
            event = http.next_event()
            if isinstance(event, h11.Request):
                return event
            if isinstance(event, h11.ConnectionClosed):
                raise _Gone
            received = yield Read(client=True, upstream=False)
            http.receive_data(received.data)

    def _say(self, http: h11.Connection, status: int, text: str) -> Steps:
        """Answer ourselves."""
        return (yield from self._deliver(State(_own(http, status, text), *_after(http))))

    # -- responses

    def _forward(self, http: h11.Connection, request: h11.Request) -> Steps:
        """Have the server answer; the state after that, or None when it has said nothing, or not enough."""
        ours = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
        outgoing = messages.for_upstream(request, self._client, self._address)
        if http.their_state is h11.SEND_BODY:
            yield Forward(ours.send(outgoing) or b"")
        else:
            yield Forward(whole(ours, outgoing))
        while True:
            yield from _upload(http, ours)
            try:
                event = ours.next_event()
            except h11.RemoteProtocolError:
                return None
            if isinstance(event, h11.Response):
                return (yield from self._answer(http, ours, request, outgoing, event))
            if isinstance(event, h11.InformationalResponse):
                if request.http_version >= b"1.1":
                    yield from self._hold(State(lost=True))
                    yield Write(http.send(messages.for_client(event)) or b"")
                    yield from self._hold(_in_doubt())
            else:
                yield from self._receive(http, ours)

    def _answer(
        self,
        http: h11.Connection,
        ours: h11.Connection,
        request: h11.Request,
        outgoing: h11.Request,
        response: h11.Response,
    ) -> Steps:
        length = messages.length_of_body(request, response)
        part = messages.part_of(outgoing, response) if messages.is_safe(request) else None
        is_short = part is None and length is not None and length <= SHORT
        is_passed_on = not is_short and (length is None or http.their_state is h11.SEND_BODY)
        body = b"" if is_passed_on else buffered(ours)
        while is_short and length is not None and len(body) < length:
            received = yield Read(client=False, upstream=True)
            if not received.data:
                return None
            ours.receive_data(received.data)
            body += buffered(ours)
        self._upstream.is_open = messages.keeps_alive(response) and http.their_state is not h11.SEND_BODY
        head = http.send(messages.for_client(response)) or b""
        if is_short:
            return (yield from self._deliver(State(head + body, *_after(http))))
        if part is not None:
            state = State(head, *_after(http), part)
            yield Export(state)
            yield Write(head + body)
            yield from self._upstream.rest(part, part.first + len(body), asked=True)
            return state
        yield from self._hold(State(lost=True))
        yield Write(head + body)
        if is_passed_on:
            yield from self._pass_on(http, ours)
        elif length is not None and (yield Relay(length - len(body))) < length - len(body):
            raise Broken(f"{request.target.decode('latin-1')}: the server has ended its response early")
        return (yield from self._deliver(State(b"", *_after(http))))

    def _pass_on(self, http: h11.Connection, ours: h11.Connection) -> Steps:
        """The response's body, and what is left of the request's, as they come."""
        while True:
            yield from _upload(http, ours)
            try:
                event = ours.next_event()
            except h11.RemoteProtocolError as error:
                raise Broken("the server has ended its response early") from error
            if isinstance(event, h11.Data):
                yield Write(http.send(h11.Data(data=event.data)) or b"")
            elif isinstance(event, h11.EndOfMessage):
                yield Write(http.send(h11.EndOfMessage()) or b"")
                return
            else:
                yield from self._receive(http, ours)

    def _receive(self, http: h11.Connection, ours: h11.Connection) -> Steps:
        """Wait for what comes next, from either side."""
        received = yield Read(client=http.their_state is h11.SEND_BODY, upstream=True)
        (http if received.from_client else ours).receive_data(received.data)
        if received.from_client:
            self._read += len(received.data)
            if self._read >= OFTEN:
                yield from self._hold(self._held)

    def _hold(self, state: State) -> Steps:
        """Export `state` for the case that this instance dies."""
        self._held, self._read = state, 0
        yield Export(state, hold=True)

    def _deliver(self, state: State) -> Steps:
        yield Export(state)
        if state.head:
            yield Write(state.head)
        return state


def _own(http: h11.Connection, status: int, text: str) -> bytes:
    """A response of our own."""
    body = text.encode() + b"\n"
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    if http.their_state in (h11.SEND_BODY, h11.ERROR):
        headers.append(("Connection", "close"))
    return (
        http.send(h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)) or b""
    ) + body


def _in_doubt() -> State:
    return State(_own(h11.Connection(h11.SERVER), 502, IN_DOUBT), close=True)


def _upload(http: h11.Connection, ours: h11.Connection) -> Steps:
    """Send on what the client has sent of its request's body; h11.RemoteProtocolError when that is not HTTP."""
    while http.their_state is h11.SEND_BODY:
        event = http.next_event()
        if event is h11.NEED_DATA:
            return
        data = ours.send(h11.Data(data=event.data) if isinstance(event, h11.Data) else h11.EndOfMessage())
        if data:
            yield Forward(data)


def _after(http: h11.Connection) -> tuple[bytes, bool]:
    """What was read of the next requests, and whether there will be none: once the response's head is made."""
    close = http.their_state is not h11.DONE
    return b"" if close else http.trailing_data[0], close
