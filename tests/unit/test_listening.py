"""A burst of clients: the agent's socket is full for a moment."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from mtcp.agent import local
from mtcp.listening import AGENT_READS, _send_patiently

MESSAGE = {"op": "attach"}


def test_what_the_agent_cannot_take_at_once_waits_for_it() -> None:
    ours, agents = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    sent = 0
    with ours, agents, Path(os.devnull).open("rb") as file:
        with pytest.raises(BlockingIOError):
            while True:
                local.send(ours, MESSAGE, [file.fileno()])
                sent += 1
        begun = time.monotonic()
        with pytest.raises(BlockingIOError):  # nobody reads at all
            _send_patiently(ours, MESSAGE, [file.fileno()])
        assert time.monotonic() - begun > AGENT_READS * 0.9

        def read() -> None:
            for _ in range(sent):
                _, fds = local.receive(agents)
                for fd in fds:
                    os.close(fd)

        reader = threading.Timer(AGENT_READS / 10, read)
        reader.start()
        _send_patiently(ours, MESSAGE, [file.fileno()])
        reader.join()
        message, fds = local.receive(agents)
        assert message == MESSAGE and len(fds) == 1
        os.close(fds[0])
