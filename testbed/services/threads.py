"""A thread per connection, made before the connection is there."""

from __future__ import annotations

import threading
from collections.abc import Callable

import mtcp

WORKERS = 256
"""Connections at a time."""


def serve_forever(listener: mtcp.Listener, serve: Callable[[mtcp.Connection], None]) -> None:
    """Call `serve` for each connection, in WORKERS threads that accept in turn.

    A connection that has moved here finds its thread waiting: making one would add to its client's stall.
    """
    turn = threading.Lock()

    def work() -> None:
        while True:
            with turn:
                connection = listener.accept()
            serve(connection)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
