"""testbed.services.stream's DOWN and UP, whose process for the connection ends it in the middle.

    python tests/services/ending.py --port 7105

A client's first line: MANNER MS REQUEST, where MANNER is close, exit or kill, so many milliseconds after the request,
whatever the process is doing then; REQUEST is the stream service's. What another server takes over goes on to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
import time

import mtcp
from testbed.services.stream import DOWN, UP, down, pattern, up


def end(manner: str, seconds: float, connection: mtcp.Connection) -> None:
    time.sleep(seconds)
    if manner == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    connection.close()
    if manner == "exit":
        os._exit(0)


def serve(connection: mtcp.Connection) -> None:
    imported = connection.import_state()
    request = imported.state if imported is not None else b""
    while b"\n" not in request:
        request += connection.recv(1000)
    line, rest = request.split(b"\n", 1)
    words = line.decode().split()
    if words[0] in ("close", "exit", "kill"):
        manner, after, *words = words
        if imported is None:
            threading.Thread(target=end, args=(manner, int(after) / 1e3, connection), daemon=True).start()
    what, *numbers = words
    if what == "DOWN":
        down(connection, *map(int, numbers))
    else:
        up(connection, rest, *map(int, numbers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
                # ValueError: its other thread has closed it.
                with connection, contextlib.suppress(OSError, ValueError):
                    serve(connection)
                os._exit(0)
            connection.close()


if __name__ == "__main__":
    main()
