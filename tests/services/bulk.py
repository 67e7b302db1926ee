"""Writes much before it exports, or exports what is not yet sent. A client's first line: BYTES EVERY BUFFER.

It sends so many bytes of testbed.services.stream's pattern and exports after each EVERY of them, which it has then
written, but which may lie in the kernel's queue, of BUFFER bytes, for long. python tests/services/bulk.py --port 7106
"""

from __future__ import annotations

import argparse
import contextlib
import socket

import mtcp
from testbed.services.stream import DOWN, pattern
from testbed.services.threads import serve_forever

PIECE = 1 << 16
SO_SNDBUFFORCE = 32


def serve(connection: mtcp.Connection) -> None:
    with connection, contextlib.suppress(ConnectionError):
        imported = connection.import_state()
        request = imported.state if imported is not None else b""
        while b"\n" not in request:
            data = connection.recv(1000)
            if not data:
                return
            request += data
        total, every, buffer, *rest = map(int, request.split())
        connection.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, buffer)
        offset = rest[0] if rest else 0
        exported = offset
        while offset < total:
            length = min(PIECE, total - offset)
            connection.sendall(pattern(DOWN, offset, length))
            offset += length
            if offset - exported >= every:
                connection.export_state(b"%d %d %d %d\n" % (total, every, buffer, offset))
                exported = offset
        while connection.recv(PIECE):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    pattern(DOWN, 0, 0)
    with mtcp.listen(("", options.port)) as listener:
        print("listening", flush=True)
        serve_forever(listener, serve)


if __name__ == "__main__":
    main()
