"""Ask for all paths at once over one connection, as HTTP/1.1 allows; print the SHA-256 of all bodies in turn.

python pipelining.py ADDRESS PORT PATH ...
"""

from __future__ import annotations

import hashlib
import socket
import sys

import h11

address, port, *paths = sys.argv[1:]
requests = [f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode() for path in paths]
with socket.create_connection((address, int(port))) as connection:
    connection.sendall(b"".join(requests))
    sha, rest = hashlib.sha256(), b""
    for path in paths:
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method="GET", target=path, headers=[("Host", address)]))
        http.send(h11.EndOfMessage())
        http.receive_data(rest or connection.recv(1 << 16))
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(connection.recv(1 << 16))
            elif isinstance(event, h11.Response) and event.status_code != 200:
                sys.exit(f"{path}: {event.status_code}")
            elif isinstance(event, h11.Data):
                sha.update(event.data)
        rest = http.trailing_data[0]
print(sha.hexdigest())
