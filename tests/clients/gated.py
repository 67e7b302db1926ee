"""Asks, reads nothing until a line comes on its input, then all. gated.py ADDRESS PORT REQUEST BYTES"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from testbed.services.stream import DOWN, pattern


def main() -> None:
    address, port, request, total = sys.argv[1:]
    with socket.create_connection((address, int(port))) as sock:
        sock.sendall(request.encode() + b"\n")
        sys.stdin.readline()
        offset = 0
        while offset < int(total):
            data = sock.recv(1 << 16)
            assert data and data == pattern(DOWN, offset, len(data)), f"wrong bytes at {offset}"
            offset += len(data)


if __name__ == "__main__":
    main()
