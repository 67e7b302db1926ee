"""testbed.services.stream, in the classic manner: a process per connection, whose parent closes its copy.

python tests/services/forking.py --port 7101
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

import mtcp
from testbed.services.stream import DOWN, UP, pattern, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    pattern(DOWN, 0, 0), pattern(UP, 0, 0)
    with mtcp.listen(("", options.port)) as listener:
        print("listening", flush=True)
        while True:
            connection = listener.accept()
            if os.fork() == 0:
                listener.close()
                serve(connection)
                sys.exit()
            connection.close()


if __name__ == "__main__":
    main()
