"""Asks, reads nothing until a line comes on its input, then all. gated.py ADDRESS PORT REQUEST BYTES [HELD]

The last HELD bytes are read after another line.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from testbed.services.stream import DOWN, pattern


def main() -> None:
    address, port, request, total, *held = sys.argv[1:]
    with socket.create_connection((address, int(port))) as sock:
        sock.sendall(request.encode() + b"\n")
        offset = 0
        for end in (int(total) - sum(map(int, held)), int(total)):
            if offset < end:
                sys.stdin.readline()
            while offset < end:
                data = sock.recv(min(1 << 16, end - offset))
                assert data and data == pattern(DOWN, offset, len(data)), f"wrong bytes at {offset}"
                offset += len(data)


if __name__ == "__main__":
    main()
