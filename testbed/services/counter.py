"""The M-TCP papers' counter: each byte received adds one, the answer is the sum.

python -m testbed.services.counter --port 7002
"""

from __future__ import annotations

import argparse
import contextlib
import sys

import mtcp
from testbed.services.threads import serve_forever


def count(connection: mtcp.Connection) -> None:
    """Serve one connection, from wherever it is."""
    with connection, contextlib.suppress(ConnectionError):
        num = 0
        imported = connection.import_state()
        if imported is not None and imported.state:
            num = int(imported.state)
            connection.sendall(b"%d\n" % num)  # the library swallows what the client has of it
        while connection.recv(1):
            num += 1
            connection.export_state(b"%d" % num)
            connection.sendall(b"%d\n" % num)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=7002)
    port = parser.parse_args().port
    try:
        listener = mtcp.listen(("", port))
    except (mtcp.MtcpError, OSError) as error:
        print(f"counter: cannot listen on port {port}: {error}", file=sys.stderr)
        return 1
    with listener:
        print("listening", flush=True)
        serve_forever(listener, count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
