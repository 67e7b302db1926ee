"""Runs on a client's host: moves its connections at random instants to random servers until its input ends.

    python -m experiments.soak_mover --at-once 4 --pause 0.05 --seed 1

Several moves, of different connections, may be under way at a time. Prints each outcome as a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
from typing import Any

from mtcp.agent import local
from mtcp.errors import MtcpError


class Mover:
    """The threads that move, and what they share."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._stop = threading.Event()
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def run(self, at_once: int, seed: int) -> None:
        """Move until standard input ends."""
        threads = [threading.Thread(target=self._move, args=(random.Random(f"{seed}.{n}"),)) for n in range(at_once)]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self._stop.set()
        for thread in threads:
            thread.join()

    def _move(self, draw: random.Random) -> None:
        while not self._stop.wait(draw.expovariate(1 / self._pause)):
            row = self._choose(draw)
            if row is None:
                continue
            try:
                to = draw.choice(row["others"]).rpartition(":")[0]
                outcome = local.request({"op": "migrate", "connection": row["connection"], "to": to})
            except MtcpError:  # it has just ended, or its last move is still being undone
                continue
            finally:
                with self._lock:
                    self._busy.discard(row["connection"])
            with self._lock:
                print(json.dumps(outcome), flush=True)

    def _choose(self, draw: random.Random) -> dict[str, Any] | None:
        rows = local.request({"op": "ls"})["connections"]
        with self._lock:
            free = [row for row in rows if row["others"] and row["connection"] not in self._busy]
            if not free:
                return None
            row: dict[str, Any] = draw.choice(free)
            self._busy.add(row["connection"])
        return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.05, help="mean seconds between moves of each of those")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    Mover(options.pause).run(options.at_once, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
