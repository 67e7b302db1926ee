"""What of the servers' engine needs no privilege."""

from __future__ import annotations

import dataclasses
import errno
import socket
import struct
import time
from typing import cast

import pytest

from mtcp.address import Endpoint, FourTuple
from mtcp.linux import tcp_repair
from mtcp.snapshot import SoSnapshot, StateReply, TcpSnapshot

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


@pytest.mark.parametrize("field", ["snd_wscale", "rcv_wscale"])
def test_a_window_scale_that_tcp_does_not_have_is_refused(field: str) -> None:
    good = TcpSnapshot(1, 2, 7, 1460, 14, 14, 0, 65535, 65535, 65535, 0)
    sound = StateReply(0, 0, 0, 0, 0, good, SoSnapshot(0, 0, -1), b"8 bytes!", 1, b"", b"", b"")
    reply = dataclasses.replace(sound, tcp_snapshot=dataclasses.replace(good, **{field: 15}))
    connection = FourTuple(Endpoint("127.0.0.1", 80), Endpoint("127.0.0.1", 50000))
    with pytest.raises(OSError, match="window scale") as refused:
        tcp_repair.restore(reply, connection, 0, 65535)
    assert refused.value.errno == errno.EFBIG


class Enlarging:
    """A socket whose buffer is full until the application, in mid-call, makes it larger than anything needed."""

    def __init__(self) -> None:
        self.size, self.written, self.forced = 1000, b"", 0

    def send(self, data: memoryview, _flags: int) -> int:
        if self.size == 1000:
            self.size = 2 * tcp_repair.BUFFER_MAX
            raise OSError(errno.EAGAIN, "full")
        self.written += data
        return len(data)

    def getsockopt(self, _level: int, _option: int) -> int:
        return self.size

    def setsockopt(self, _level: int, _option: int, _value: int) -> None:
        self.forced += 1


def test_an_application_that_enlarges_the_buffer_meanwhile_loses_nothing() -> None:
    sock = Enlarging()
    tcp_repair._write_all(cast(socket.socket, sock), b"x" * 100_000, tcp_repair.SO_SNDBUFFORCE, socket.SO_SNDBUF)
    assert (sock.written, sock.forced) == (b"x" * 100_000, 0)
