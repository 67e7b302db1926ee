"""Send bytes to the counter service, as fast as they go, and read no answer until a line comes: ADDRESS PORT COUNT."""

import socket
import sys
import threading


def main(address: str, port: int, count: int) -> None:
    with socket.socket() as sock:
        # Small, so that the server is soon stopped in the middle of its output.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        sock.connect((address, port))
        threading.Thread(target=sock.sendall, args=(b"x" * count,), daemon=True).start()
        sys.stdin.readline()
        answers = sock.makefile("rb")
        for number in range(1, count + 1):
            line = answers.readline()
            assert line == b"%d\n" % number, f"{line!r} instead of {number}"
        sock.shutdown(socket.SHUT_WR)
        rest = answers.read()
        assert not rest, f"{rest[:40]!r} after the last answer"


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
