"""A client one of whose streams ends before the other; plain sockets, every byte checked.

half_closed.py ADDRESS PORT read REQUEST BYTES          ask, end its stream, read BYTES to the server's end
half_closed.py ADDRESS PORT write REQUEST BYTES GREETING interval_us
                                                        ask, read GREETING to the server's end, then write BYTES
"""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from testbed.services.stream import DOWN, PERIOD, UP, pattern


def read_to_the_end(sock: socket.socket, total: int) -> None:
    offset = 0
    while data := sock.recv(1 << 16):
        assert data == pattern(DOWN, offset, len(data)), f"wrong bytes at {offset}"
        offset += len(data)
    assert offset == total, f"{offset} bytes of {total}"


def main() -> None:
    address, port, what, request, total, *numbers = sys.argv[1:]
    with socket.create_connection((address, int(port))) as sock:
        sock.sendall(request.encode() + b"\n")
        if what == "read":
            sock.shutdown(socket.SHUT_WR)
            read_to_the_end(sock, int(total))
            return
        greeting, interval_us = map(int, numbers)
        read_to_the_end(sock, greeting)
        print("ended", flush=True)
        offset = 0
        while offset < int(total):
            length = min(4000 if interval_us else PERIOD, int(total) - offset)
            sock.sendall(pattern(UP, offset, length))
            offset += length
            time.sleep(interval_us / 1e6)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


if __name__ == "__main__":
    main()
