"""What the sidecar exports: all that another needs to write the rest of a response and to read the next request."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from mtcp.errors import RemoteProtocolError

VERSION = 1
Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Part:
    """Bytes [first, end) of a file that any server of the pool can be asked for again, from anywhere on."""

    target: str
    headers: Headers
    """Of the request, without conditions and ranges."""
    validator: str
    """The file's entity tag, or when it was last modified: for If-Range."""
    first: int
    end: int
    size: int
    """Of the whole file."""


@dataclass(frozen=True)
class State:
    """Between two requests, or a response under way."""

    head: bytes = b""
    """What is written first: a head, or a short response as a whole."""
    unread: bytes = b""
    """What was read beyond the request that is answered: the beginning of the next ones."""
    close: bool = False
    """Whether the connection ends with this response."""
    part: Part | None = None
    """What is written then."""
    lost: bool = False
    """Whether nobody can go on with the response, and the connection has to be reset."""

    def encode(self) -> bytes:
        meta: dict[str, Any] = {"version": VERSION, "head": len(self.head), "close": self.close, "lost": self.lost}
        meta["part"] = None if self.part is None else asdict(self.part)
        return json.dumps(meta).encode() + b"\n" + self.head + self.unread

    @classmethod
    def decode(cls, data: bytes) -> State:
        """RemoteProtocolError when this is no state of a sidecar of the same version."""
        line, _, rest = data.partition(b"\n")
        try:
            meta = json.loads(line)
            if meta["version"] != VERSION:
                raise RemoteProtocolError(
                    "another version of the sidecar left this connection: have the same on all servers"
                )
            part = meta["part"]
            if part is not None:
                headers = [(str(name), str(value)) for name, value in part.pop("headers")]
                part = Part(headers=headers, **part)
            head = int(meta["head"])
            return cls(rest[:head], rest[head:], bool(meta["close"]), part, bool(meta["lost"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RemoteProtocolError(
                "this connection's state is not a sidecar's: who else listens on its port?"
            ) from error
