"""Many connections at a slow pace, every byte checked: ADDRESS STREAM_PORT COUNTER_PORT, orders on standard input.

    download PORT PATIENCE       open one from this local port, and likewise
    conversation PORT PATIENCE   (PATIENCE: seconds after which the kernel gives up a silent server, or 0)
    progress                     print {port: bytes received}
    errors                       print {port: [what it saw that no connection should]}
    end                          wind up, print a report, exit

A download is of testbed.services.stream, a conversation is with testbed.services.counter.
"""

from __future__ import annotations

import errno
import json
import selectors
import socket
import sys
import time
from typing import Any

from testbed.services.stream import DOWN, pattern

CHUNK, INTERVAL = 700, 0.05
ENDLESS = 10**9
PAUSE = 0.1
"""Seconds between a conversation's questions, unless an answer is still to come."""


class Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = 0
        self.errors: list[str] = []
        self.gap = 0.0
        self.last = time.monotonic()
        self.ended = False

    def read(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except OSError as error:
            self.fail(errno.errorcode.get(error.errno or 0, repr(error)))
            return
        now = time.monotonic()
        self.gap, self.last = max(self.gap, now - self.last), now
        if not data:
            self.on_end()
            return
        self.check(data)
        self.received += len(data)

    def on_end(self) -> None:
        self.fail(f"end of stream after {self.received} bytes")

    def fail(self, error: str) -> None:
        self.errors.append(error)
        self.gap = max(self.gap, time.monotonic() - self.last)
        self.ended = True

    def check(self, data: bytes) -> None:
        raise NotImplementedError

    def act(self, now: float) -> None:
        """When it is time."""

    def report(self) -> dict[str, Any]:
        return {"errors": self.errors, "bytes": self.received, "gap": self.gap}


class Download(Connection):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.sendall(b"DOWN %d %d %d\n" % (ENDLESS, CHUNK, INTERVAL * 1e6))

    def check(self, data: bytes) -> None:
        if data != pattern(DOWN, self.received, len(data)):
            self.fail(f"wrong bytes in {self.received} to {self.received + len(data)}")


class Conversation(Connection):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._asked = self._answered = 0
        self._due = 0.0
        self._line = b""
        self._winding_up = False

    def act(self, now: float) -> None:
        if self._winding_up or now < self._due or self._asked - self._answered > 20:
            return
        try:
            self.sock.sendall(b"x")
        except OSError as error:
            self.fail(errno.errorcode.get(error.errno or 0, repr(error)))
            return
        self._asked += 1
        self._due = now + PAUSE

    def check(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._answered += 1
            if line != b"%d" % self._answered:
                self.fail(f"{line!r} instead of {self._answered}")

    def wind_up(self) -> None:
        self._winding_up = True
        self.sock.shutdown(socket.SHUT_WR)

    def on_end(self) -> None:
        if not self._winding_up or self._answered != self._asked:
            self.fail(f"end of stream after {self._answered} answers of {self._asked}")
        self.ended = True


def give_up_after(sock: socket.socket, seconds: float) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def main(address: str, stream_port: int, counter_port: int) -> None:
    pattern(DOWN, 0, 0)
    connections: dict[int, Connection] = {}
    selector = selectors.DefaultSelector()
    orders = open(0, "rb", buffering=0)  # noqa: SIM115  a line at a time, so that the selector sees the next
    selector.register(orders, selectors.EVENT_READ)
    print("ready", flush=True)

    def turn(timeout: float) -> str:
        """Serve all for a while; an order, if there was one."""
        order = ""
        for key, _ in selector.select(timeout):
            if key.data is None:
                order = orders.readline().decode().strip() or "end"
            else:
                key.data.read()
        now = time.monotonic()
        for connection in connections.values():
            if connection.ended and connection.sock in selector.get_map():
                selector.unregister(connection.sock)
            if not connection.ended:
                connection.act(now)
        return order

    while True:
        match turn(0.02).split():
            case ["download" | "conversation" as what, port, patience]:
                to, kind = (stream_port, Download) if what == "download" else (counter_port, Conversation)
                sock = socket.create_connection((address, to), source_address=("", int(port)))
                if float(patience):
                    give_up_after(sock, float(patience))
                connections[int(port)] = kind(sock)
                selector.register(sock, selectors.EVENT_READ, connections[int(port)])
            case ["errors"]:
                print(json.dumps({port: c.errors for port, c in connections.items()}), flush=True)
            case ["progress"]:
                print(json.dumps({port: c.received for port, c in connections.items()}), flush=True)
            case ["end"]:
                break
    # Both ends close from here on: a FIN that is sent once more than needed is answered, by whoever has none any more,
    # with RST. What a reset would lose is seen as an error.
    closing_ns = time.time_ns()
    for connection in connections.values():
        if isinstance(connection, Conversation) and not connection.ended:
            connection.wind_up()
    until = time.monotonic() + 10
    while time.monotonic() < until and any(isinstance(c, Conversation) and not c.ended for c in connections.values()):
        turn(0.02)
    for connection in connections.values():
        if isinstance(connection, Conversation) and not connection.ended:
            connection.fail("no end of stream")
    print(json.dumps({"closing_ns": closing_ns, "connections": {p: c.report() for p, c in connections.items()}}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
