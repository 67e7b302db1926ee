"""What a client program needs of a connection to a server, whatever carries it; kinds of connections by name."""

from __future__ import annotations

import abc
import importlib
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from mtcp.address import Endpoint
from testbed.errors import TestbedError


class Broken(ConnectionError):
    """The connection ended, or did not come about, before all had come. Another one may go on."""


class Refused(TestbedError):
    """The server's answer is of no use, and another one would be none either."""


class Connection(abc.ABC):
    """A connection to one server: for one `fetch` at a time, and for another when that is done."""

    local_port: int
    """This end's."""
    received: int = 0
    """Bytes of the server's stream that the program has read, its framing included."""
    sent: int = 0
    """Bytes of requests, likewise."""
    ca: Path | None = None
    """Whose certificates it believes, a PEM file, where servers have any; None: the public authorities."""

    @abc.abstractmethod
    async def open(self, server: Endpoint) -> None:
        """Connect. Broken when the server, or the network, refuses. May be cancelled, as may `fetch`: then `close`."""

    @abc.abstractmethod
    def fetch(self, path: str, first: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Ask for bytes [first, end) of `path` (`end` None: to its end) and yield them as they are read, none empty.

        What has been read has been yielded when this waits: nothing is lost where it is cancelled. Broken when it ends
        before the last byte; Refused when the server does not have that.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Drop the connection at once. Not while something waits in `open` or `fetch`; more than once does no harm."""

    def observed(self) -> Mapping[str, Any]:
        """What else a policy may know of it: srtt to out_of_order of mtcp.policy.View, by name, as far as is known."""
        return {}


def checked_length(status: int, headers: Mapping[bytes, bytes], path: str, first: int, end: int | None) -> int:
    """Bytes of the body to come; Refused unless they are those that `fetch` has asked for."""
    length = int(headers.get(b"content-length", b"-1"))
    asked = f"bytes {first}-{first + length - 1}/".encode()
    whole = status == 200 and not first and end is None
    part = status == 206 and headers.get(b"content-range", b"").startswith(asked)
    if not (whole or part) or (end is not None and length != end - first):
        raise Refused(f"{path}: status {status} instead of bytes {first} to {end or 'its end'}")
    return length


def range_header(first: int, end: int | None) -> str:
    """Range: what asks for [first, end); "" for all."""
    return f"bytes={first}-{'' if end is None else end - 1}" if first or end is not None else ""


KINDS: dict[str, str] = {
    "tcp": "testbed.clients.tcp.Tcp",
    "mptcp": "testbed.clients.tcp.Mptcp",
    "quic": "testbed.clients.quic.Quic",
}
"""Classes by name; imported when they are asked for."""


def kind(name: str) -> type[Connection]:
    """The class of connections called `name`, one of KINDS."""
    module, _, member = KINDS[name].rpartition(".")
    found: type[Connection] = getattr(importlib.import_module(module), member)
    return found
