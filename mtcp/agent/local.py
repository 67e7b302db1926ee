"""The agent's local socket: applications (through `mtcp.api`) and commands (`mtcp ls` …) of the same host.

An abstract unix socket, so one per network namespace, SOCK_SEQPACKET: each packet is one JSON object, file descriptors
travel beside it (SCM_RIGHTS). Written down for other languages in docs/wire.md.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Protocol

from mtcp.capsule import LOG_SIZE, STATE_MAX
from mtcp.errors import MtcpError

log = logging.getLogger(__name__)
ADDRESS = "\0mtcp-agent"
MAX_PACKET = 1 << 18
MAX_FDS = 3
Message = dict[str, Any]


def connect(blocking: bool = True) -> socket.socket:
    """A connection to this host's agent; MtcpError when there is none, or, not `blocking`, none that takes it now."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(blocking)
    try:
        sock.connect(ADDRESS)
    except OSError:
        sock.close()
        raise MtcpError("no mtcp agent runs on this host; start one with `mtcp agent` (as root)") from None
    return sock


def send(sock: socket.socket, message: Message | str, fds: Sequence[int] = ()) -> None:
    """One packet: an object, or the text of one."""
    text = message if isinstance(message, str) else json.dumps(message)
    socket.send_fds(sock, [text.encode()], list(fds))


def receive(sock: socket.socket, size: int = MAX_PACKET) -> tuple[Message, list[int]]:
    """One packet of up to `size` bytes, and its descriptors.

    EOFError when the other side is gone, ValueError when it is not JSON.
    """
    data, fds, _, _ = socket.recv_fds(sock, size, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
    try:
        return _read(data), fds
    except (EOFError, ValueError):
        for fd in fds:
            os.close(fd)
        raise


def _read(data: bytes) -> Message:
    if not data:
        raise EOFError("the agent closed the connection")
    try:
        message = json.loads(data)
    except RecursionError:
        raise ValueError("a message is not nested that deeply") from None
    if not isinstance(message, dict):
        raise ValueError("a message is a JSON object")
    return message


def request(message: Message) -> Message:
    """Ask this host's agent and wait for the answer; MtcpError carries its refusal."""
    with connect() as sock:
        send(sock, message)
        try:
            answer, _ = receive(sock)
        except EOFError as e:
            raise MtcpError("the agent ended before it answered; see its log") from e
    if "error" in answer:
        raise MtcpError(str(answer["error"]))
    return answer


class Handler(Protocol):
    """What the agent does with messages."""

    def on_message(self, channel: Channel, message: Message, fds: list[int]) -> None:
        """`fds` are closed afterwards. MtcpError is answered to the sender."""

    def on_channel_closed(self, channel: Channel) -> None: ...


class Channel:
    """One process connected to the agent."""

    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        self._sock = sock
        self._handler = handler
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.log_size, self.state_max = LOG_SIZE, STATE_MAX
        """Those of connections that move here to the process, bytes."""
        self.pid, self.uid, _ = struct.unpack("=3i", credentials)
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def may_command(self) -> bool:
        """Commands that touch others' connections are for root and for the agent's own user."""
        return self.uid in (0, os.geteuid())

    def send(self, message: Message | str, fds: Sequence[int] = ()) -> bool:
        """False when the process is gone or does not read."""
        try:
            send(self._sock, message, fds)
        except OSError:
            return False
        return True

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def _readable(self) -> None:
        try:
            message, fds = receive(self._sock)
        except BlockingIOError:
            return
        except (EOFError, OSError, ValueError) as error:
            if not isinstance(error, EOFError):
                log.warning("local connection of pid %d: %s; closed", self.pid, error)
            self.close()
            self._handler.on_channel_closed(self)
            return
        try:
            self._handler.on_message(self, message, fds)
        except MtcpError as error:
            self.send({"error": str(error)})
        except Exception as error:  # whatever a broken application may send
            log.warning("message of pid %d: %r", self.pid, error)
            self.send({"error": f"message {message.get('op')!r} not understood: {error!r}"})
        finally:
            for fd in fds:
                os.close(fd)


class LocalSocket:
    """Accepts local connections."""

    def __init__(self, handler: Handler) -> None:
        """MtcpError when this host has an agent already."""
        self._handler = handler
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._sock.bind(ADDRESS)
        except OSError as e:
            self._sock.close()
            raise MtcpError("an mtcp agent runs on this host already; `mtcp status` asks it") from e
        self._sock.listen(128)
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock, self._acceptable)

    def _acceptable(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        sock.setblocking(False)
        Channel(sock, self._handler)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
