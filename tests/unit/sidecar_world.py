"""Sidecars without sockets: sessions on several servers, a web server behind each, a client's stream, and moves.

What the library does for an application is done here by hand, as docs/api.md says: exports belong to offsets of the two
streams, what was read since is read again, and output that the client has already is swallowed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import h11

from mtcp.sidecar.actions import (
    Action,
    Connect,
    Discard,
    End,
    Export,
    Forward,
    Read,
    Received,
    Relay,
    Steps,
    Write,
)
from mtcp.sidecar.session import Session
from mtcp.sidecar.state import State

ADDRESS = "127.0.0.1:8080"


@dataclass
class File:
    content: bytes
    etag: str = '"1"'
    modified: str = "Mon, 23 Nov 2026 20:00:00 GMT"
    ranges: bool = True
    chunked: int = 0
    """Bytes of a chunk; 0: of known length."""


@dataclass
class WebServer:
    """Files, and POST, which it counts: the answer is what came, and how often. Written after RFC 9110, for tests."""

    files: dict[str, File] = field(default_factory=dict)
    requests: list[h11.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    refuses: int = 0
    """Connections that it does not take."""
    breaks: int = 0
    """Responses that end before half of the body."""

    def answer(self, request: h11.Request, body: bytes) -> tuple[int, list[tuple[str, str]], bytes, int]:
        """Status, headers, body, and chunk size."""
        self.requests.append(request)
        header = {name.decode(): value.decode() for name, value in request.headers}
        if request.method == b"POST":
            self.bodies.append(body)
            return 200, [("Content-Length", str(len(body)))], body, 0
        file = self.files.get(request.target.decode())
        if file is None:
            return 404, [("Content-Length", "5")], b"none\n", 0
        headers = [("Date", "Mon, 23 Nov 2026 21:00:00 GMT"), ("Last-Modified", file.modified), ("X-Mixed", "Case")]
        headers += [("ETag", file.etag)] if file.etag else []
        headers += [("Accept-Ranges", "bytes")] if file.ranges else []
        if header.get("if-none-match") == file.etag:
            return 304, headers, b"", 0
        if file.chunked:
            return 200, [*headers, ("Transfer-Encoding", "chunked")], file.content, file.chunked
        first, end = 0, len(file.content)
        same = header.get("if-range", file.etag) in (file.etag, file.modified)
        if file.ranges and same and "range" in header:
            start, _, last = header["range"].removeprefix("bytes=").partition("-")
            first, end = int(start), int(last) + 1 if last else end
            headers.append(("Content-Range", f"bytes {first}-{end - 1}/{len(file.content)}"))
            return 206, [*headers, ("Content-Length", str(end - first))], file.content[first:end], 0
        return 200, [*headers, ("Content-Length", str(end))], file.content, 0


class Upstream:
    """A connection to a web server."""

    def __init__(self, server: WebServer, seed: random.Random) -> None:
        self._server, self._seed = server, seed
        self._http = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None
        self._body = b""
        self.out = bytearray()
        self.ended = False

    def receive(self, data: bytes) -> None:
        if self.ended:
            return
        self._http.receive_data(data)
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._request, self._body = event, b""
                if self._http.they_are_waiting_for_100_continue:
                    self.out += self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._respond()
            else:
                return

    def _respond(self) -> None:
        assert self._request is not None
        status, headers, body, chunk = self._server.answer(self._request, self._body)
        send = self._http.send
        self.out += send(h11.Response(status_code=status, headers=headers)) or b""
        if self._request.method == b"HEAD":
            body = b""
        if self._server.breaks and body:
            self._server.breaks -= 1
            self.out += (send(h11.Data(data=body[: len(body) // 2])) or b"") if not chunk else b""
            self.ended = True
            return
        for at in range(0, len(body), chunk or len(body) or 1):
            self.out += send(h11.Data(data=body[at : at + (chunk or len(body))])) or b""
        self.out += send(h11.EndOfMessage()) or b""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()

    def take(self, most: int) -> bytes:
        data = bytes(self.out[: self._seed.randint(1, most)])
        del self.out[: len(data)]
        return data


@dataclass
class Exported:
    state: bytes = b""
    rcv_offset: int = 0
    snd_offset: int = 0


class World:
    """A client that sends `requests`, and the pool's servers; the connection is on the first."""

    def __init__(self, requests: bytes, servers: list[WebServer], seed: int = 0, piece: int = 1 << 16) -> None:
        """`piece`: bytes that are read at once, at most, half of the time."""
        self.requests, self.servers, self.piece = requests, servers, piece
        self.random = random.Random(seed)
        self.on = 0
        self.written = bytearray()
        """What the servers have put into the client's stream."""
        self.read_offset = self.swallow = 0
        self.exported = Exported()
        self.held = False
        self.refused = self.log_max = 0
        self.pauses: list[float] = []
        self._upstream: Upstream | None = None
        self._begin(None)

    def _begin(self, state: State | None) -> None:
        self._steps: Steps = Session("10.0.0.100", ADDRESS).run(state)
        self._action: Action = next(self._steps)

    def run(self, moves: int = 0, likely: float = 0.2) -> str:
        """To the end, with so many moves at random moments; what the last session complains of."""
        while not isinstance(self._action, End):
            if moves and self.random.random() < likely:
                moves -= self.move()
                continue
            self._action = self._steps.send(self._do(self._action))
        return self._action.complaint

    def move(self, died: bool = False) -> bool:
        """To the next server; False: it was held, by a sidecar that has not `died`."""
        if self.held and not died:
            self.refused += 1
            return False
        # What the client has: at least what was acknowledged, and that is any of it. Before the export it is shipped.
        has = max(self.exported.snd_offset, self.random.randint(0, len(self.written)))
        del self.written[has:]
        self.swallow = has - self.exported.snd_offset
        self.read_offset = self.exported.rcv_offset
        self.on = (self.on + 1) % len(self.servers)
        self._upstream, self.held = None, False
        self._begin(State.decode(self.exported.state) if self.exported.state else None)
        return True

    def _do(self, action: Action) -> Any:
        match action:
            case Write(data):
                self._write(data)
            case Forward(data):
                assert self._upstream is not None
                self._upstream.receive(data)
            case Connect(pause):
                self.pauses.append(pause)
                server = self.servers[self.on]
                server.refuses -= 1
                self._upstream = Upstream(server, self.random) if server.refuses < 0 else None
                return self._upstream is not None
            case Relay(count):
                assert self._upstream is not None
                data = self._upstream.take(count)
                if len(data) == count or not self._upstream.ended or self._upstream.out:
                    data += bytes(self._upstream.out[: count - len(data)])
                    del self._upstream.out[: count - len(data)]
                self._write(data)
                return len(data)
            case Export(state, held):
                self.log_max = max(self.log_max, self.read_offset - self.exported.rcv_offset)
                self.exported = Exported(state.encode(), self.read_offset, len(self.written) - self.swallow)
                self.held = held
            case Discard(count):
                n = min(count, self.swallow)
                self.swallow -= n
                return n
            case Read():
                return self._read(action)

    def _most(self) -> int:
        return self.random.choice((self.piece, 1 << 16))

    def _write(self, data: bytes) -> None:
        skipped = min(self.swallow, len(data))
        self.swallow -= skipped
        self.written += data[skipped:]

    def _read(self, action: Read) -> Received:
        upstream = self._upstream
        left = self.requests[self.read_offset :]
        speaks = upstream is not None and (bool(upstream.out) or upstream.ended)
        if action.client and (not (action.upstream and speaks) or (left and self.random.random() < 0.5)):
            data = left[: self.random.randint(1, self._most())]
            self.read_offset += len(data)
            return Received(True, data)
        assert upstream is not None and speaks, "nobody will ever say anything"
        return Received(False, upstream.take(self._most()) if upstream.out else b"")
