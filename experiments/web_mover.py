"""Runs on a client's host: moves its connections, whichever there are, at random instants, so many times.

    python -m experiments.web_mover --moves 170 --pause 0.03 --seed 1

Each move is of a random connection to another server. One that its server holds is tried again later. Prints each
outcome as a line of JSON; exit status 1 when nothing can be moved any more.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time

from mtcp.agent import local
from mtcp.errors import MtcpError, Reason

PASSING = tuple(reason.name for reason in (Reason.HELD, Reason.INVALID_STATE, Reason.UNKNOWN_CONNECTION, Reason.BUSY))
"""Why a connection stays that is held, or just ending."""
PATIENCE = 30.0
"""Seconds from one move to the next, at most."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, required=True)
    parser.add_argument("--pause", type=float, default=0.03, help="mean seconds between them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, left, last = random.Random(options.seed), options.moves, time.monotonic()
    while left:
        time.sleep(draw.expovariate(1 / options.pause))
        rows = [row for row in local.request({"op": "ls"})["connections"] if row["others"]]
        if rows:
            row = draw.choice(rows)
            to = draw.choice(row["others"]).rpartition(":")[0]
            try:
                outcome = local.request({"op": "migrate", "connection": row["connection"], "to": to})
            except MtcpError:  # it has just ended
                continue
            print(json.dumps(outcome), flush=True)
            if outcome["outcome"] == "moved":
                left, last = left - 1, time.monotonic()
            elif not outcome["reason"].startswith(PASSING):
                print(f"web_mover: {outcome['reason']}", file=sys.stderr)
                return 1
        if time.monotonic() > last + PATIENCE:
            print(f"web_mover: nothing to move for {PATIENCE:g} s", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
