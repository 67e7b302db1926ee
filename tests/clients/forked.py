"""Two processes on one socket: the child writes while the parent reads, then the other way round, until a line comes.

forked.py ADDRESS PORT BYTES        so many each way, every time
"""

from __future__ import annotations

import os
import select
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from testbed.services.stream import DOWN, pattern

PIECE = 1 << 16
AGAIN, ENOUGH, DONE = b"a", b"e", b"d"


def write(sock: socket.socket, start: int, end: int) -> None:
    for offset in range(start, end, PIECE):
        sock.sendall(pattern(DOWN, offset, min(PIECE, end - offset)))


def read(sock: socket.socket, start: int, end: int) -> None:
    offset = start
    while offset < end:
        data = sock.recv(min(PIECE, end - offset))
        assert data and data == pattern(DOWN, offset, len(data)), f"wrong bytes at {offset}"
        offset += len(data)


def child(sock: socket.socket, parent: socket.socket, each: int) -> None:
    offset, order = 0, AGAIN
    while order == AGAIN:
        write(sock, offset, offset + each)
        order = parent.recv(1)
        read(sock, offset + each, offset + 2 * each)
        parent.sendall(DONE)
        offset += 2 * each
    assert order == ENOUGH, "the parent has ended"


def main() -> None:
    address, port, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with socket.create_connection((address, port)) as sock:
        sock.sendall(b"ECHO\n")
        mine, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            mine.close()
            child(sock, theirs, each)
            os._exit(0)
        theirs.close()
        offset, enough = 0, False
        while not enough:
            enough = bool(select.select([sys.stdin], [], [], 0)[0])
            read(sock, offset, offset + each)
            mine.sendall(ENOUGH if enough else AGAIN)
            write(sock, offset + each, offset + 2 * each)
            assert mine.recv(1) == DONE, "the child has failed"
            offset += 2 * each
        assert os.waitpid(pid, 0)[1] == 0, "the child has failed"


if __name__ == "__main__":
    main()
