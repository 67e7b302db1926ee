"""The front-end of PostgreSQL and its sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from mtcp.api import Connection
from testbed.services.pg.effects import Answer, Ask, Receive
from testbed.services.pg.frontend import FrontEnd, _Driver

ENDS = (("10.0.0.1", 5432), ("10.0.0.100", 40000))
SIZE = 1 << 22
"""Bytes that no two sockets' buffers hold."""
PATIENT = 60.0


class Driven:
    """A driver, and the other ends of its connections."""

    def __init__(self) -> None:
        self.client, ours = socket.socketpair()
        self.database, its = socket.socketpair()
        self.driver = _Driver(FrontEnd(("10.2.1.9", 5432)), Connection(ours, ENDS))
        self.driver._database = its

    def close(self) -> None:
        self.driver.__exit__(None)
        self.client.close()
        self.database.close()


@pytest.fixture
def driven() -> Iterator[Driven]:
    driven = Driven()
    yield driven
    driven.close()


@pytest.mark.parametrize("effect", [Answer(), Receive()])
def test_a_database_that_answers_before_it_has_read_all(driven: Driven, effect: Answer | Receive) -> None:
    """As PostgreSQL does in a pipeline."""
    read = bytearray()

    def serve() -> None:
        driven.database.sendall(bytes(SIZE))
        while len(read) < SIZE:
            read.extend(driven.database.recv(1 << 16))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    asking = threading.Thread(target=lambda: driven.driver._do(Ask(b"q" * SIZE)), daemon=True)
    asking.start()
    asking.join(PATIENT)
    assert not asking.is_alive()
    answered = 0
    while answered < SIZE:
        said = driven.driver._do(effect)
        answered += len(said[1] if isinstance(effect, Receive) else said)
    thread.join(PATIENT)
    assert (answered, read) == (SIZE, b"q" * SIZE)


def test_a_database_that_goes_while_it_is_asked(driven: Driven) -> None:
    driven.database.sendall(b"why")
    driven.database.close()
    driven.driver._do(Ask(b"q" * SIZE))
    assert [driven.driver._do(Answer()) for _ in range(2)] == [b"why", b""]
