"""A client one of whose streams ends before the other; plain sockets, every byte checked.

half_closed.py ADDRESS PORT read REQUEST BYTES [HELD]
    ask, end its stream, read BYTES (0: a whole number of PERIODs) to the server's end, those after HELD slowly until a
    line comes
half_closed.py ADDRESS PORT write REQUEST CHUNK GREETING interval_us
    ask, read GREETING to the server's end, then write CHUNK bytes every interval until a line comes; print their number
"""

from __future__ import annotations

import select
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from testbed.services.stream import DOWN, PERIOD, UP, pattern

HELD_BACK = 0.01
"""Seconds between 64 kB and 64 kB."""


def told(seconds: float = 0.0) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def read_to_the_end(sock: socket.socket, total: int, held: int = 0) -> None:
    offset = 0
    while data := sock.recv(1 << 16):
        assert data == pattern(DOWN, offset, len(data)), f"wrong bytes at {offset}"
        offset += len(data)
        if held and offset > held:
            told(HELD_BACK)
    assert offset == total or (not total and offset % PERIOD == 0), f"{offset} bytes of {total}"


def main() -> None:
    address, port, what, request, size, *numbers = sys.argv[1:]
    with socket.create_connection((address, int(port))) as sock:
        sock.sendall(request.encode() + b"\n")
        if what == "read":
            sock.shutdown(socket.SHUT_WR)
            read_to_the_end(sock, int(size), *map(int, numbers))
            return
        greeting, interval_us = map(int, numbers)
        read_to_the_end(sock, greeting)
        print("ended", flush=True)
        offset = 0
        while not told():
            sock.sendall(pattern(UP, offset, int(size)))
            offset += int(size)
            time.sleep(interval_us / 1e6)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        print(offset)


if __name__ == "__main__":
    main()
