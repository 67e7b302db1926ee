"""Send bytes to the counter service and check that each was counted once: ADDRESS PORT COUNT SEED."""

import random
import socket
import sys
import threading
import time


def main(address: str, port: int, count: int, seed: int) -> None:
    rng = random.Random(seed)
    with socket.create_connection((address, port)) as sock:

        def write() -> None:
            left = count
            while left:
                n = min(left, rng.choice((1, 1, 1, 2, 10, 100)))
                sock.sendall(b"x" * n)
                left -= n
                time.sleep(rng.uniform(0, 0.003))

        threading.Thread(target=write, daemon=True).start()
        answers = sock.makefile("rb")
        for number in range(1, count + 1):
            line = answers.readline()
            assert line == b"%d\n" % number, f"{line!r} instead of {number}"
        sock.shutdown(socket.SHUT_WR)
        rest = answers.read()
        assert not rest, f"{rest[:40]!r} after the last answer"


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
