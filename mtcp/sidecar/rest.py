"""The server behind, for one client: its responses' heads, and the rest of a file from wherever the client is in it."""

from __future__ import annotations

import h11

from mtcp.sidecar import messages
from mtcp.sidecar.actions import Connect, Forward, Read, Relay, Steps, Write
from mtcp.sidecar.state import Part

HEAD_MAX = 1 << 16
"""Bytes of a message's head."""
TRIES = 6
"""How often in a row the server is asked for the rest of a file without giving any of it."""
PAUSE = 0.1
"""Seconds between the second of them and the third; doubled each time."""
_BUSY = (500, 502, 503, 504)


class Broken(Exception):
    """The connection cannot go on in good order; the text says why."""


class Upstream:
    """The connection to it, which it or we may end between any two requests."""

    def __init__(self) -> None:
        self.is_open = False
        """Whether it may be asked something over the connection that there is."""

    def connect(self, pause: float = 0.0) -> Steps:
        """Anew; whether that worked."""
        self.is_open = yield Connect(pause)
        return self.is_open

    def rest(self, part: Part, first: int, asked: bool = False) -> Steps:
        """Write `part` to the client from `first` on; `asked`: the server is sending that already.

        Broken when it has not got it, or another file by that name.
        """
        failed = 0
        while first < part.end:
            begun = first
            if asked:
                first += yield Relay(part.end - first)
            elif (yield from self.connect(PAUSE * 2 ** (failed - 1) if failed else 0.0)):
                body = yield from self._ask_for(part, first)
                if body is not None:
                    asked = True
                    if body:
                        yield Write(body)
                        first, failed = first + len(body), 0
                    continue
            asked = False
            failed = 0 if first > begun else failed + 1
            if first < part.end:
                self.is_open = False
            if failed == TRIES:
                raise Broken(f"{part.target}: the server here does not give the rest")

    def _ask_for(self, part: Part, first: int) -> Steps:
        """The beginning of the rest, perhaps empty, or None when the server went away; Broken: it is not the same."""
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
        yield Forward(whole(http, messages.rest_of(part, first)))
        response = yield from self._response(http)
        if response is None or response.status_code in _BUSY:
            return None
        if why := messages.mismatch(part, first, response):
            raise Broken(f"{part.target}: {why}")
        self.is_open = messages.keeps_alive(response)
        return buffered(http)

    def _response(self, http: h11.Connection) -> Steps:
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError:
                return None
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                received = yield Read(client=False, upstream=True)
                http.receive_data(received.data)


def whole(http: h11.Connection, request: h11.Request) -> bytes:
    """A request without a body, as it is sent."""
    return (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")


def buffered(http: h11.Connection) -> bytes:
    """What has come of a body of known length; the rest of it does not concern `http`."""
    body = []
    while isinstance(event := http.next_event(), h11.Data):
        body.append(bytes(event.data))
    return b"".join(body)
