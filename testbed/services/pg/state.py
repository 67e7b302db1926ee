"""What of a session moves with its connection."""

from __future__ import annotations

import functools
import itertools
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from testbed.services.pg.protocol import Buffer, strings

_BLOBS = ("startup", "unit", "answer", "pending", "input")
_LASTING = ("key", "settings", "custom", "prepared_by_sql", "reported")
_PASSING = ("status", "streaming", "doubt", "unsafe", "bound", "bound_then")
_LENGTHS = struct.Struct(f"!{3 + len(_BLOBS)}I")
_ENCODER = json.JSONEncoder(separators=(",", ":"))


def _encode(values: dict[str, Any]) -> bytes:
    return _ENCODER.encode(values).encode()


@functools.lru_cache(64)
def _encode_passing(*values: Any) -> bytes:
    """It is the same few again and again."""
    return _encode(dict(zip(_PASSING, values, strict=True)))


@dataclass
class State:
    """See `pg.session` for what each means to whoever goes on from it. Bytes in texts are Latin-1."""

    startup: bytes = b""
    """The client's start-up packet."""
    key: tuple[int, int] = (0, 0)
    """With which the client can cancel."""
    status: str = "I"
    """Of the transaction, as in ReadyForQuery: I none, T one, E one that has failed."""
    streaming: str = ""
    """The client has a part of an answer, and there is no way to make the rest: "ready" when an error and ReadyForQuery
    end it, "sync" when the client has still to send Sync before the latter."""
    doubt: str = ""
    """The transaction that is about to be committed (xid8): its outcome decides."""
    unit: bytes = b""
    """The statements to run again if it was not committed; none: the client is told."""
    answer: bytes = b""
    """What the client gets if it was."""
    unsafe: bool = False
    """Something is under way whose outcome nobody can find out."""
    bound: list[str] = field(default_factory=list)
    """What of the session lives and dies with its backend."""
    bound_then: list[str] = field(default_factory=list)
    """The same, if the doubtful transaction was committed."""
    settings: dict[str, str] = field(default_factory=dict)
    """By SET, in this session."""
    custom: list[str] = field(default_factory=list)
    """Names of settings that the catalogue does not list."""
    prepared: dict[str, bytes] = field(default_factory=dict)
    """The Parse message of every prepared statement."""
    prepared_by_sql: dict[str, str] = field(default_factory=dict)
    """The PREPARE of the others."""
    reported: dict[str, str] = field(default_factory=dict)
    """What the client has been told of the server's parameters."""
    pending: bytes = b""
    """Output that follows this state in the stream to the client, which may have a part of it."""
    input: bytes = b""
    """From the client, read and not dealt with."""
    _encoded: bytes = field(default=b"", init=False, repr=False, compare=False)
    _encoded_of: tuple[Any, ...] = field(default=(), init=False, repr=False, compare=False)

    @property
    def hold(self) -> bool:
        """Whether the session must stay where it is, if that can be had."""
        return self.status != "I" or bool(self.streaming or self.doubt or self.unsafe or self.bound)

    def dump(self) -> bytes:
        lasting = self._lasting()
        if lasting != self._encoded_of:
            # Compared with copies: most of it is the same from one answer to the next, and encoding takes its time.
            self._encoded_of = tuple(each if isinstance(each, tuple) else each.copy() for each in lasting)
            self._encoded = _encode(dict(zip(_LASTING, lasting, strict=True)))
        bound = tuple(self.bound), tuple(self.bound_then)
        passing = _encode_passing(self.status, self.streaming, self.doubt, self.unsafe, *bound)
        # The unnamed statement may be another each time.
        prepared = b"".join(self.prepared.values())
        parts = (self._encoded, passing, prepared, self.startup, self.unit, self.answer, self.pending, self.input)
        return b"".join((_LENGTHS.pack(*map(len, parts)), *parts))

    def _lasting(self) -> tuple[Any, ...]:
        return self.key, self.settings, self.custom, self.prepared_by_sql, self.reported

    @classmethod
    def load(cls, data: bytes) -> State:
        """ValueError when it is no state."""
        lengths = _LENGTHS.unpack_from(data) if len(data) >= _LENGTHS.size else ()
        if len(data) != _LENGTHS.size + sum(lengths):
            raise ValueError("a session's state is cut short, or another version's")
        ends = list(itertools.accumulate(lengths, initial=_LENGTHS.size))
        parts = [data[start:end] for start, end in itertools.pairwise(ends)]
        values: dict[str, Any] = json.loads(parts[0]) | json.loads(parts[1])
        if values.keys() != {*_LASTING, *_PASSING}:
            raise ValueError("a session's state of another version")
        values |= dict(zip(_BLOBS, parts[3:], strict=True))
        values["key"] = tuple(values["key"])
        values["prepared"] = prepared = {}
        messages = Buffer(parts[2])
        while (message := messages.message()) is not None:
            prepared[strings(message.body, 1)[0]] = message.raw
        return cls(**values)
