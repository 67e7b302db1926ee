"""An HTTP/1.1 file server whose downloads move: GET and HEAD, byte ranges, keep-alive.

    python -m testbed.services.files --port 80 --directory DIR [--state BYTES] [--every BYTES]

Its state is the response under way: the head, the file, the range. It is exported once per request; wherever the
client is in that response, another instance goes on by seeking. To measure what exporting costs, there can be more of
it, so many bytes that cannot be compressed, and more often, each time so many bytes of a body have been written.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import h11

import mtcp
from mtcp.capsule import STATE_MAX
from testbed import mptcp
from testbed.errors import TestbedError
from testbed.services import answers
from testbed.services.threads import serve_forever

ROOM = 1 << 16
"""Bytes for the response in a state; its head is bounded by h11."""


@dataclass(frozen=True)
class Response:
    """All that is needed to write the rest of a response."""

    head: str
    path: str = ""
    """Below the served directory; empty when there is no body."""
    first: int = 0
    end: int = 0
    close: bool = False
    unread: str = ""
    """Bytes of the next request that came with this one."""

    def rest(self, first: int) -> Response:
        """What remains when the client is to have all before `first`."""
        return replace(self, head="", first=first)


@dataclass(frozen=True)
class Exporting:
    """What is exported beside the response, and when."""

    more: bytes = b""
    every: int = 0
    """Bytes of a body; 0: once a response."""

    def export(self, connection: mtcp.Connection, response: Response) -> None:
        connection.export_state(json.dumps(asdict(response)).encode() + b"\n" + self.more)


def imported_response(state: bytes) -> Response:
    """What `Exporting.export` has exported."""
    return Response(**json.loads(state.partition(b"\n")[0]))


def send(response: Response, connection: mtcp.Connection, directory: Path, exporting: Exporting) -> None:
    """Write head and body; the library passes over what the client has already."""
    connection.sendall(response.head.encode("latin-1"))
    if not response.path:
        return
    with (directory / response.path).open("rb") as file:
        first = response.first
        while first < response.end:
            last = min(response.end, first + exporting.every) if exporting.every else response.end
            connection.sendfile(file, first, last - first)
            if last < response.end:
                exporting.export(connection, response.rest(last))
            first = last


def serve(connection: mtcp.Connection, directory: Path, exporting: Exporting = Exporting()) -> None:
    """Serve one connection, from wherever it is, to its end."""
    with connection, contextlib.suppress(ConnectionError, h11.RemoteProtocolError):
        # Else the body of a kept-alive connection's answer waits for the acknowledgement of its head, 40 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        imported = connection.import_state()
        response = None
        if imported is not None and imported.state:
            response = imported_response(imported.state)
            send(response, connection, directory, exporting)
        while response is None or not response.close:
            response = next_response(connection, directory, response.unread if response else "")
            if response is None:
                return
            exporting.export(connection, response)
            send(response, connection, directory, exporting)


def next_response(connection: mtcp.Connection, directory: Path, unread: str) -> Response | None:
    """Read a request and decide on its answer; None at the end of the stream."""
    http = h11.Connection(h11.SERVER)
    if unread:
        http.receive_data(unread.encode("latin-1"))
    request = None
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(connection.recv(1 << 16))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return answer(http, request, directory)
        elif isinstance(event, h11.ConnectionClosed):
            return None


def answer(http: h11.Connection, request: h11.Request, directory: Path) -> Response:
    """The response to a request."""
    asked = next((value.decode("latin-1") for key, value in request.headers if key == b"range"), None)
    found = answers.answer(request.method.decode("latin-1"), request.target.decode("latin-1"), asked, directory)
    head = http.send(h11.Response(status_code=found.status, headers=found.headers)) or b""
    unread = http.trailing_data[0].decode("latin-1")
    # Our own state says so only after the body, which h11 does not see.
    close = http.their_state is h11.MUST_CLOSE
    return Response(head.decode("latin-1"), found.path, found.first, found.end, close, unread)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--directory", type=Path, default=Path())
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--plain", action="store_true", help="plain TCP, for comparison: connections do not move")
    kinds.add_argument("--mptcp", action="store_true", help="Multipath TCP of the kernel, for comparison")
    parser.add_argument("--state", type=int, default=0, metavar="BYTES", help="exported beside the response (0)")
    parser.add_argument("--every", type=int, default=0, metavar="BYTES", help="of a body, then export (once a request)")
    options = parser.parse_args()
    exporting = Exporting(random.Random(0).randbytes(options.state), options.every)
    largest = max(STATE_MAX, options.state + ROOM)
    try:
        if options.mptcp:
            listener = mptcp.listen(options.port)
        else:
            listener = mtcp.listen(("", options.port), migratable=not options.plain, state_max=largest)
    except (mtcp.MtcpError, TestbedError, OSError) as error:
        print(f"files: cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 1
    with listener:
        print("listening", flush=True)
        serve_forever(listener, lambda connection: serve(connection, options.directory, exporting))
    return 0


if __name__ == "__main__":
    sys.exit(main())
