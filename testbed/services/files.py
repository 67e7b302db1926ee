"""An HTTP/1.1 file server whose downloads move: GET and HEAD, byte ranges, keep-alive.

    python -m testbed.services.files --port 80 --directory DIR

Its state is the response under way: the head, the file, the range. It is exported once per request; wherever the
client is in that response, another instance goes on by seeking.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import h11

import mtcp
from testbed.services import answers
from testbed.services.threads import serve_forever


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

    def send(self, connection: mtcp.Connection, directory: Path) -> None:
        """Write head and body; the library passes over what the client has already."""
        connection.sendall(self.head.encode("latin-1"))
        if self.path:
            with (directory / self.path).open("rb") as file:
                connection.sendfile(file, self.first, self.end - self.first)


def serve(connection: mtcp.Connection, directory: Path) -> None:
    """Serve one connection, from wherever it is, to its end."""
    with connection, contextlib.suppress(ConnectionError, h11.RemoteProtocolError):
        # Else the body of a kept-alive connection's answer waits for the acknowledgement of its head, 40 ms.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        imported = connection.import_state()
        response = None
        if imported is not None and imported.state:
            response = Response(**json.loads(imported.state))
            response.send(connection, directory)
        while response is None or not response.close:
            response = next_response(connection, directory, response.unread if response else "")
            if response is None:
                return
            connection.export_state(json.dumps(asdict(response)).encode())
            response.send(connection, directory)


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
    close = http.our_state is h11.MUST_CLOSE
    return Response(head.decode("latin-1"), found.path, found.first, found.end, close, unread)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--directory", type=Path, default=Path())
    parser.add_argument("--plain", action="store_true", help="plain TCP, for comparison: connections do not move")
    options = parser.parse_args()
    try:
        listener = mtcp.listen(("", options.port), migratable=not options.plain)
    except (mtcp.MtcpError, OSError) as error:
        print(f"files: cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 1
    with listener:
        print("listening", flush=True)
        serve_forever(listener, lambda connection: serve(connection, options.directory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
