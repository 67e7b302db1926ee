"""Asks, reads (or writes) until it ends somehow, and says how: "BYTES end" or "BYTES reset"; every byte is checked.

to_the_end.py ADDRESS PORT read|write REQUEST BYTES
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from testbed.services.stream import DOWN, UP, pattern

PIECE = 1 << 16


def main() -> None:
    address, port, what, request, total = sys.argv[1:]
    offset, how = 0, "end"
    with socket.create_connection((address, int(port))) as sock:
        sock.sendall(request.encode() + b"\n")
        print("asked", flush=True)
        try:
            if what == "write":
                while offset < int(total):
                    length = min(PIECE, int(total) - offset)
                    sock.sendall(pattern(UP, offset, length))
                    offset += length
                assert sock.recv(100) == b"OK %d\n" % offset
            else:
                while offset < int(total) and (data := sock.recv(PIECE)):
                    assert data == pattern(DOWN, offset, len(data)), f"wrong bytes at {offset}"
                    offset += len(data)
        except (ConnectionError, AssertionError) as error:
            if isinstance(error, AssertionError) and what == "read":
                raise
            how = "reset"
    print(offset, how, flush=True)


if __name__ == "__main__":
    main()
