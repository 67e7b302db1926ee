"""What of the servers' engine needs no privilege."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from mtcp.linux import tcp_repair

pytestmark = pytest.mark.unit


def test_closing_waits_for_nobody() -> None:
    """An application's SO_LINGER would stop the agent, which closes the socket last."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        sock, _ = listener.accept()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 5))
        sock.setblocking(False)
        written = 0
        try:
            while True:
                written += sock.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        before = time.monotonic()
        tcp_repair.close(sock)
        assert time.monotonic() - before < 2
        client.settimeout(5)
        while data := client.recv(1 << 20):
            written -= len(data)
        assert not written
