"""PostgreSQL's protocol 3.0 (its manual, "Frontend/Backend Protocol"): messages in byte streams, and those we make.

Text is kept as the bytes on the wire, decoded as Latin-1: whatever the client's encoding is, it comes back unharmed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

VERSION_3 = 3
SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
CANCEL_FORWARDED = 80877902
"""Not PostgreSQL's: a cancel request from another front-end, which has asked the others already."""
STARTUP_MAX = 10_000
"""Bytes of a start-up packet, as PostgreSQL allows."""
MESSAGE_MAX = 1 << 30
_INT = struct.Struct("!i")
_SHORT = struct.Struct("!h")


class ProtocolViolation(Exception):
    """What came is not this protocol."""


class Message(NamedTuple):
    """A message with its type and length, as it is on the wire."""

    kind: str
    raw: bytes

    @property
    def body(self) -> bytes:
        return self.raw[5:]


class Buffer:
    """A stream of messages that comes in pieces."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)
        self._at = 0

    def feed(self, data: bytes) -> None:
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    @property
    def rest(self) -> bytes:
        """What has come and has not been taken."""
        return bytes(self._data[self._at :])

    def startup(self) -> bytes | None:
        """The next packet without a type, as those before the session have none; None until it is complete."""
        length = self._length(0, 8, STARTUP_MAX)
        return self._take(length) if length is not None else None

    def message(self) -> Message | None:
        """The next message; None until it is complete. ProtocolViolation when there can be none."""
        length = self._length(1, 4, MESSAGE_MAX)
        if length is None:
            return None
        raw = self._take(1 + length)
        return Message(chr(raw[0]), raw) if raw is not None else None

    def _length(self, at: int, least: int, most: int) -> int | None:
        if len(self._data) - self._at < at + 4:
            return None
        length: int = _INT.unpack_from(self._data, self._at + at)[0]
        if not least <= length <= most:
            raise ProtocolViolation(f"a message of {length} bytes")
        return length

    def _take(self, length: int) -> bytes | None:
        if len(self._data) - self._at < length:
            return None
        start, self._at = self._at, self._at + length
        return bytes(self._data[start : self._at])


def integer(data: bytes, at: int) -> int:
    """The signed 32-bit number there; ProtocolViolation when it is not all there."""
    try:
        return int(_INT.unpack_from(data, at)[0])
    except struct.error:
        raise ProtocolViolation("a message is cut short") from None


def strings(data: bytes, count: int, at: int = 0) -> list[str]:
    """The next `count` strings; ProtocolViolation when there are less."""
    parts = data[at:].split(b"\0", count)
    if len(parts) <= count:
        raise ProtocolViolation("a string without an end")
    return [part.decode("latin-1") for part in parts[:count]]


def startup_parameters(packet: bytes) -> dict[str, str]:
    """Those of a start-up packet."""
    words = packet[8:].removesuffix(b"\0").decode("latin-1").split("\0")
    return dict(zip(words[::2], words[1::2], strict=False))


def make(kind: str, *parts: bytes) -> bytes:
    """A message."""
    body = b"".join(parts)
    return kind.encode() + _INT.pack(4 + len(body)) + body


def text(value: str) -> bytes:
    return value.encode("latin-1") + b"\0"


def query(sql: str) -> bytes:
    return make("Q", text(sql))


def parse(name: str, sql: str) -> bytes:
    return make("P", text(name), text(sql), _SHORT.pack(0))


def execute(name: str, portal: str) -> bytes:
    """Bind the statement to a portal, without parameters, execute it, and close the portal."""
    bound = make("B", text(portal), text(name), bytes(6))
    return bound + make("E", text(portal), _INT.pack(0)) + make("C", b"P", text(portal))


def close_statement(name: str) -> bytes:
    return make("C", b"S", text(name))


SYNC = make("S")
TERMINATE = make("X")
AUTHENTICATED = make("R", _INT.pack(0))


def ready(status: str) -> bytes:
    return make("Z", status.encode())


def complete(tag: str) -> bytes:
    return make("C", text(tag))


def key_data(key: tuple[int, int]) -> bytes:
    """The key with which this session's statements can be cancelled."""
    return make("K", _INT.pack(key[0]), _INT.pack(key[1]))


def cancel_request(key: tuple[int, int], code: int = CANCEL_REQUEST) -> bytes:
    return b"".join(map(_INT.pack, (16, code, *key)))


def startup_packet(parameters: Mapping[str, str]) -> bytes:
    body = b"".join(text(word) for pair in parameters.items() for word in pair)
    return _INT.pack(9 + len(body)) + _INT.pack(VERSION_3 << 16) + body + b"\0"


def error(code: str, words: str, severity: str = "ERROR") -> bytes:
    """An ErrorResponse with this SQLSTATE."""
    fields = (("S", severity), ("V", severity), ("C", code), ("M", words))
    return make("E", *(name.encode() + text(value) for name, value in fields), b"\0")


def error_fields(message: Message) -> dict[str, str]:
    """Those of an ErrorResponse or NoticeResponse, by their letters."""
    parts = message.body.rstrip(b"\0").split(b"\0")
    return {part[:1].decode("latin-1"): part[1:].decode("latin-1") for part in parts if part}


def parameter_status(name: str, value: str) -> bytes:
    return make("S", text(name), text(value))


def row(message: Message) -> list[str | None]:
    """The values of a DataRow in text format."""
    body, at = message.body, 2
    values: list[str | None] = []
    for _ in range(_SHORT.unpack_from(body)[0]):
        length = integer(body, at)
        at += 4
        values.append(None if length < 0 else body[at : at + length].decode("latin-1"))
        at += max(0, length)
    return values


def data_row(values: Sequence[str | None]) -> bytes:
    """A DataRow in text format."""
    parts = [_SHORT.pack(len(values))]
    for value in values:
        data = (value or "").encode("latin-1")
        parts += [_INT.pack(-1)] if value is None else [_INT.pack(len(data)), data]
    return make("D", *parts)
