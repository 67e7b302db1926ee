"""A front-end of PostgreSQL: clients speak to it as to the database, and their sessions move between servers.

    python -m testbed.services.postgres --port 5432 --database 10.1.0.9:5432 --peers 10.0.0.2:5432

It has a connection of its own to the database for every client, as the user that the client says: the database must
trust it. Peers are the front-ends on other servers, which get cancel requests for sessions that have moved to them.
What moves and what cannot: docs/postgres.md.
"""

from __future__ import annotations

import argparse
import logging
import sys

import mtcp
from testbed.services.pg.frontend import FrontEnd
from testbed.services.threads import serve_forever

LOG_SIZE, STATE_MAX = 1 << 21, 1 << 21
"""What a client sends in one unit, and what is exported of its answer: see testbed.services.pg.session."""


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not HOST:PORT")
    return host, int(port)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=5432)
    parser.add_argument("--database", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--peers", type=_address, nargs="*", default=[], metavar="HOST:PORT")
    parser.add_argument("--plain", action="store_true", help="plain TCP, for comparison: sessions do not move")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    front_end = FrontEnd(options.database, options.peers)
    try:
        listener = mtcp.listen(("", options.port), log_size=LOG_SIZE, state_max=STATE_MAX, migratable=not options.plain)
    except (mtcp.MtcpError, OSError) as error:
        print(f"postgres: cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 1
    with listener:
        print("listening", flush=True)
        serve_forever(listener, front_end.serve)
    return 0


if __name__ == "__main__":
    sys.exit(main())
