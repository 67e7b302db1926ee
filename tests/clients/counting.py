"""Send bytes to the counter service and check that each was counted once: ADDRESS PORT COUNT SEED.

With a COUNT of 0 until a line comes.
"""

import random
import socket
import sys
import threading
import time


def main(address: str, port: int, count: int, seed: int) -> None:
    rng, total, told = random.Random(seed), count or sys.maxsize, threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        told.set()

    with socket.create_connection((address, port)) as sock:

        def write() -> None:
            nonlocal total
            sent = 0
            while sent < total:
                n = min(total - sent, rng.choice((1, 1, 1, 2, 10, 100)))
                sock.sendall(b"x" * n)
                sent += n
                time.sleep(rng.uniform(0, 0.003))
                if told.is_set() and not count:
                    total = min(total, sent + 1)  # one more, whose answer is still to be read

        threading.Thread(target=listen, daemon=True).start()
        threading.Thread(target=write, daemon=True).start()
        answers, number = sock.makefile("rb"), 0
        while number < total:
            number += 1
            line = answers.readline()
            assert line == b"%d\n" % number, f"{line!r} instead of {number}"
        sock.shutdown(socket.SHUT_WR)
        rest = answers.read()
        assert not rest, f"{rest[:40]!r} after the last answer"


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
