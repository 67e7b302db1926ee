"""Two processes on one socket: the child writes while the parent reads, then the other way round.

forked.py ADDRESS PORT BYTES
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from testbed.services.stream import DOWN, pattern

PIECE = 1 << 16


def write(sock: socket.socket, total: int) -> None:
    for offset in range(0, total, PIECE):
        sock.sendall(pattern(DOWN, offset, min(PIECE, total - offset)))


def read(sock: socket.socket, total: int) -> None:
    offset = 0
    while offset < total:
        data = sock.recv(min(PIECE, total - offset))
        assert data and data == pattern(DOWN, offset, len(data)), f"wrong bytes at {offset}"
        offset += len(data)


def main() -> None:
    address, port, total = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with socket.create_connection((address, port)) as sock:
        sock.sendall(b"ECHO\n")
        turn, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            write(sock, total)
            os.read(turn, 1)
            read(sock, total)
            os._exit(0)
        read(sock, total)
        os.write(go, b"x")
        write(sock, total)
        assert os.waitpid(pid, 0)[1] == 0, "the child has failed"


if __name__ == "__main__":
    main()
