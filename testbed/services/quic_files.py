"""The file server (testbed.services.files) over HTTP/3: GET and HEAD, byte ranges, several requests a connection.

    python -m testbed.services.quic_files --directory DIR --credentials DIR --name 10.0.0.1

Without M-TCP, of course: QUIC connections cannot go to another server (docs/quic.md), so clients ask it for the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import ErrorCode, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StopSendingReceived

from testbed import certificates, quic
from testbed.errors import TestbedError
from testbed.services.answers import answer

AHEAD = 1 << 18
"""Bytes of a body that wait to be sent: more than goes out at once, and all that is in memory beside what is under
way and may have to be sent again."""
PIECE = 1 << 16


class Body:
    """What is still to be read of a file."""

    def __init__(self, path: Path, first: int, end: int) -> None:
        self._file = path.open("rb")
        self._file.seek(first)
        self.left = end - first

    def read(self) -> bytes:
        """Some bytes; OSError where the file has fewer than it had."""
        piece = self._file.read(min(PIECE, self.left))
        if not piece:
            raise OSError("the file has shrunk")
        self.left -= len(piece)
        return piece

    def close(self) -> None:
        self._file.close()


class Serving(QuicConnectionProtocol):
    """A connection."""

    def __init__(self, connection: QuicConnection, directory: Path, **options: Any) -> None:
        super().__init__(connection, **options)
        quic.paced(connection)
        self._directory = directory
        self._http = H3Connection(connection)
        self._bodies: dict[int, Body] = {}
        """By stream: those that are not all handed to aioquic."""

    def quic_event_received(self, event: QuicEvent) -> None:
        for message in self._http.handle_event(event):
            if isinstance(message, HeadersReceived):
                self._answer(message)
        if isinstance(event, StopSendingReceived):
            self._drop(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            for stream_id in [*self._bodies]:
                self._drop(stream_id)

    def _answer(self, request: HeadersReceived) -> None:
        if request.stream_id in self._bodies:
            return  # trailers
        headers = {name: value.decode("latin-1") for name, value in request.headers}
        found = answer(headers[b":method"], headers.get(b":path", ""), headers.get(b"range"), self._directory)
        lines = [(":status", str(found.status)), *found.headers]
        body = found.end - found.first if found.path else 0
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in lines]
        self._http.send_headers(request.stream_id, encoded, end_stream=not body)
        if body:
            self._bodies[request.stream_id] = Body(self._directory / found.path, found.first, found.end)

    def transmit(self) -> None:
        """Send what may be sent now; called when anything has come, or a timer is over."""
        for stream_id in [*self._bodies]:
            self._feed(stream_id)
        super().transmit()

    def _feed(self, stream_id: int) -> None:
        """aioquic takes as much as it is given, and keeps it in memory: give it what it will send soon."""
        body, sender = self._bodies[stream_id], self._quic._streams[stream_id].sender
        try:
            while body.left and sender._buffer_stop - sender.highest_offset < AHEAD:
                self._http.send_data(stream_id, body.read(), end_stream=not body.left)
        except OSError:
            self._quic.reset_stream(stream_id, ErrorCode.H3_INTERNAL_ERROR)
            self._drop(stream_id)
        else:
            if not body.left:
                self._drop(stream_id)

    def _drop(self, stream_id: int) -> None:
        if stream_id in self._bodies:
            self._bodies.pop(stream_id).close()


async def serve(address: str, port: int, directory: Path, credentials: certificates.Credentials) -> QuicServer:
    """Serve `directory` on this UDP port until the server is closed; OSError.

    `address`: "" for all of the host's; then the kernel chooses from which one it answers.
    """
    configured = quic.configuration(client=False)
    configured.load_cert_chain(credentials.certificate, credentials.key)
    sock = quic.udp_socket(socket.AF_INET6 if not address or ":" in address else socket.AF_INET)
    try:
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise

    def protocol(connection: QuicConnection, **options: Any) -> Serving:
        return Serving(connection, directory, **options)

    _, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: QuicServer(configuration=configured, create_protocol=protocol), sock=sock
    )
    return server


async def _serve_for_ever(address: str, port: int, directory: Path, credentials: certificates.Credentials) -> None:
    await serve(address, port, directory, credentials)
    print("listening", flush=True)
    await asyncio.Event().wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = "needed where clients know more than one of the host's (all)"
    parser.add_argument("--address", default="", metavar="IP", help=what)
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--directory", type=Path, default=Path())
    what = "where certificate.pem and key.pem are, or are to be made for --name"
    parser.add_argument("--credentials", type=Path, required=True, metavar="DIR", help=what)
    parser.add_argument("--name", action="append", default=[], help="of a server: IP address or DNS name; repeatable")
    options = parser.parse_args()
    try:
        credentials = certificates.kept(options.credentials, options.name)
        asyncio.run(_serve_for_ever(options.address, options.port, options.directory, credentials))
    except (TestbedError, OSError) as error:
        print(f"quic_files: cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
