"""Send bytes to the counter service, as fast as they go, and read no answer until a line comes: ADDRESS PORT.

Another line ends it.
"""

import socket
import sys
import threading
import time

AHEAD, PIECE = 400_000, 1000
"""Bytes without an answer, and bytes at once."""


def main(address: str, port: int) -> None:
    total, number, told = sys.maxsize, 0, threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        told.set()

    with socket.socket() as sock:
        # Small, so that the server is soon stopped in the middle of its output.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
        sock.connect((address, port))

        def write() -> None:
            nonlocal total
            sent = 0
            while sent < total:
                if sent - number >= AHEAD:
                    time.sleep(0.001)
                    continue
                if told.is_set():
                    total = sent + PIECE  # answers are still to be read
                sock.sendall(b"x" * PIECE)
                sent += PIECE

        threading.Thread(target=write, daemon=True).start()
        sys.stdin.readline()
        threading.Thread(target=listen, daemon=True).start()
        answers = sock.makefile("rb")
        while number < total:
            number += 1
            line = answers.readline()
            assert line == b"%d\n" % number, f"{line!r} instead of {number}"
        sock.shutdown(socket.SHUT_WR)
        rest = answers.read()
        assert not rest, f"{rest[:40]!r} after the last answer"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
