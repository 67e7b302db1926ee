"""Runs on the client's host: moves its connection on and on, each time decided the instant the last move has committed.

    python -m experiments.chain_mover --migrations 1000 --seed 1

Where to is drawn among the pool's other servers. The agent is asked for move k+1 while move k is under way, and asked
again as long as it refuses that: so the decision falls between the commit and whatever the agents make of it. Prints
each outcome as a line of JSON; exit status 1 when a move could not be started.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import sys
from typing import Any

from experiments.mover import Stalled, connection
from mtcp.agent import local
from mtcp.errors import MtcpError

PATIENCE = 60.0
"""Seconds for an outcome."""


class Request:
    """A move that the agent is asked for until it has begun."""

    def __init__(self, connection: str, to: str) -> None:
        self._message = {"op": "migrate", "connection": connection, "to": to}
        self._channel: socket.socket | None = None
        self.outcome: dict[str, Any] | None = None

    def ask(self) -> socket.socket:
        """Ask, unless an answer is still to come; where that will come."""
        if self._channel is None:
            self._channel = local.connect()
            local.send(self._channel, self._message)
        return self._channel

    def answered(self) -> None:
        """Take the answer: the outcome, or a refusal, after which to ask again. MtcpError when that is useless."""
        assert self._channel is not None
        answer, _ = local.receive(self._channel)
        self._channel.close()
        self._channel = None
        if "error" not in answer:
            self.outcome = answer
        elif "under way" not in answer["error"] and "already" not in answer["error"]:
            raise MtcpError(answer["error"])

    def wait(self, behind: Request | None) -> dict[str, Any]:
        """The outcome; meanwhile the request `behind` this one is made again and again."""
        while self.outcome is None:
            mine = self.ask()
            # The one behind may overtake: then it has its outcome already.
            channels = [mine] if behind is None or behind.outcome is not None else [mine, behind.ask()]
            ready, _, _ = select.select(channels, [], [], PATIENCE)
            if not ready:
                raise Stalled(f"no answer of the agent within {PATIENCE:g} s")
            if mine in ready:
                self.answered()
            elif behind is not None:
                behind.answered()
        return self.outcome


def targets(first: str, servers: list[str], count: int, seed: int) -> list[str]:
    """`count` servers, none of them twice in a row, the first not `first`."""
    draw, path = random.Random(seed), [first]
    while len(path) <= count:
        path.append(draw.choice([server for server in servers if server != path[-1]]))
    return path[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--migrations", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        found = connection()
        name, current = str(found["connection"]), str(found["current"]).rpartition(":")[0]
        others = [other.rpartition(":")[0] for other in found["others"]]  # type: ignore[attr-defined]
        path = targets(current, [current, *others], options.migrations, options.seed)
        requests = [Request(name, to) for to in path]
        for request, behind in zip(requests, [*requests[1:], None], strict=True):
            print(json.dumps(request.wait(behind)), flush=True)
    except (MtcpError, Stalled) as error:
        print(f"chain_mover: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
