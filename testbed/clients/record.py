"""What a client program writes down of what it did, and its files.

client.json         how it ended, and what it decided: see Record.write
deliveries.parquet  monotonic_ns, bytes, server: body bytes by when the program had read them, within COALESCED
requests.parquet    asked_ns, first_byte_ns, done_ns, bytes, server, path: one row a request. No done_ns: it was not
                    answered to the end. `server`: that of the last byte
playout.parquet     segment, wanted_at_ns, done_ns: see testbed.clients.workloads.stream

All instants are of CLOCK_MONOTONIC. requests.parquet and playout.parquet are there for workloads that have such rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

COALESCED = 1_000_000
"""Nanoseconds: deliveries within the same millisecond are one row, with the instant of the first."""


@dataclass
class Delivery:
    """Body bytes that the program had read."""

    monotonic_ns: int
    bytes: int
    server: str


@dataclass
class Request:
    """A request and its answer."""

    asked_ns: int
    path: str
    first_byte_ns: int | None = None
    done_ns: int | None = None
    bytes: int = 0
    server: str = ""


@dataclass
class Segment:
    """A piece of media in the play-out buffer."""

    segment: int
    wanted_at_ns: int | None = None
    done_ns: int | None = None


class Record:
    """All of it, while the program runs."""

    def __init__(self) -> None:
        self.size = 0
        """Bytes of bodies so far."""
        self.deliveries: list[Delivery] = []
        self.requests: list[Request] = []
        self.segments: list[Segment] = []
        self.connections: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self.started_ns = self.ended_ns = 0
        self._sha256 = hashlib.sha256()

    def delivered(self, piece: bytes, server: str) -> None:
        """The program has just read `piece` of a body from `server`."""
        now = time.monotonic_ns()
        self._sha256.update(piece)
        self.size += len(piece)
        last = self.deliveries[-1] if self.deliveries else None
        if last is None or last.server != server or last.monotonic_ns // COALESCED != now // COALESCED:
            self.deliveries.append(Delivery(now, len(piece), server))
        else:
            last.bytes += len(piece)
        if self.requests and (request := self.requests[-1]).done_ns is None:
            request.first_byte_ns = request.first_byte_ns or now
            request.bytes += len(piece)
            request.server = server

    @contextlib.contextmanager
    def request(self, path: str) -> Iterator[Request]:
        """A request for `path`: what is delivered inside belongs to it. It is done when the block ends well."""
        request = Request(time.monotonic_ns(), path)
        self.requests.append(request)
        yield request
        request.done_ns = time.monotonic_ns()

    def opened(self, server: str, local_port: int) -> None:
        """There is a connection to `server`."""
        self.connections.append({"server": server, "local_port": local_port, "opened_ns": time.monotonic_ns()})

    def decided(self, old: str, new: str, why: str) -> None:
        """The program leaves `old` for `new`; `why`: policy, error, operator."""
        self.decisions.append({"monotonic_ns": time.monotonic_ns(), "from": old, "to": new, "why": why})

    def write(self, directory: Path, error: str, more: Mapping[str, Any]) -> None:
        """Write the files into `directory`. `error`: one line, "" when all went well; `more`: for client.json."""
        directory.mkdir(parents=True, exist_ok=True)
        _write_rows(directory / "deliveries.parquet", Delivery, self.deliveries)
        if self.requests:
            _write_rows(directory / "requests.parquet", Request, self.requests)
        if self.segments:
            _write_rows(directory / "playout.parquet", Segment, self.segments)
        summary = {
            "exit": 1 if error else 0,
            "error": error,
            "bytes": self.size,
            "sha256": self._sha256.hexdigest(),
            "connections": self.connections,
            "decisions": self.decisions,
            "started_ns": self.started_ns,
            "ended_ns": self.ended_ns,
            "cpu_s": round(time.process_time(), 3),
            **more,
        }
        # Last: who finds it finds all.
        (directory / "client.json").write_text(json.dumps(summary, indent=2) + "\n")


def _write_rows(path: Path, kind: type, rows: Sequence[Any]) -> None:
    import pyarrow as pa  # slow to import: after the work
    from pyarrow import parquet

    types = {"server": pa.string(), "path": pa.string()}
    schema = pa.schema([(each.name, types.get(each.name, pa.int64())) for each in fields(kind)])
    parquet.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema), path)
