"""Frames between the agents of a pool, on their control connections; big-endian.

    magic "MTCP" | version u8 | compat_version u8 | type u16 | length u32 | body

A reader of version v takes a frame when its compat_version <= v. The length is bounded before anything is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import ClassVar, Self

from mtcp import keys
from mtcp.address import Endpoint, FourTuple, unpack_ip
from mtcp.errors import Reason, RemoteProtocolError
from mtcp.snapshot import SoSnapshot, StateReply, TcpSnapshot

MAGIC = b"MTCP"
VERSION = 1
COMPAT_VERSION = 1
HEADER = struct.Struct("!4sBBHI")
MAX_BODY = 64 << 20
"""Bytes; a state of more than this is TOO_LARGE to move."""


class FrameType(IntEnum):
    """What the body is."""

    STATE_REQUEST = 1
    STATE_REPLY = 2
    STATE_REJECT = 3
    DONE = 4
    DONE_ACK = 5
    QUERY = 6
    RELEASE = 7


_ENDPOINT = struct.Struct("!B16sH")


def _pack_endpoint(endpoint: Endpoint) -> bytes:
    packed = endpoint.packed
    return _ENDPOINT.pack(4 if len(packed) == 4 else 6, packed, endpoint.port)


def _pack_tuple(four: FourTuple) -> bytes:
    return _pack_endpoint(four.local) + _pack_endpoint(four.remote)


class _Reader:
    """Takes a body apart from the left; what is missing or left over is the sender's error."""

    def __init__(self, body: bytes) -> None:
        self._rest = memoryview(body)

    def take(self, n: int) -> bytes:
        if len(self._rest) < n:
            raise RemoteProtocolError(f"frame ends {n - len(self._rest)} bytes early")
        taken, self._rest = self._rest[:n], self._rest[n:]
        return bytes(taken)

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def endpoint(self) -> Endpoint:
        family, packed, port = _ENDPOINT.unpack(self.take(_ENDPOINT.size))
        if family not in (4, 6):
            raise RemoteProtocolError(f"address of family {family} in a frame; 4 and 6 are known")
        return Endpoint(unpack_ip(packed[:4] if family == 4 else packed), port)

    def four_tuple(self) -> FourTuple:
        return FourTuple(self.endpoint(), self.endpoint())

    def end(self) -> None:
        if self._rest:
            raise RemoteProtocolError(f"frame has {len(self._rest)} bytes too many")


@dataclass(frozen=True)
class StateRequest:
    """New server to old: the client wants `old` (your view of it) to go on as `new` (my view)."""

    type: ClassVar[FrameType] = FrameType.STATE_REQUEST
    old: FourTuple
    new: FourTuple
    rcv_nxt: int
    attempt: int
    mac: bytes
    _layout: ClassVar[struct.Struct] = struct.Struct("!II")

    def body(self) -> bytes:
        return _pack_tuple(self.old) + _pack_tuple(self.new) + self._layout.pack(self.rcv_nxt, self.attempt) + self.mac

    @classmethod
    def parse(cls, body: bytes) -> Self:
        r = _Reader(body)
        old, new, (rcv_nxt, attempt), mac = r.four_tuple(), r.four_tuple(), r.unpack(cls._layout), r.take(8)
        r.end()
        return cls(old, new, rcv_nxt, attempt, mac)


@dataclass(frozen=True)
class StateReplyFrame:
    """Old server to new: here it is. By `tag`, the request's MAC, the new server knows what it asked for."""

    type: ClassVar[FrameType] = FrameType.STATE_REPLY
    old: FourTuple
    tag: bytes
    reply: StateReply
    _numbers: ClassVar[struct.Struct] = struct.Struct("!IIIIIIQII8s")
    _tcp: ClassVar[struct.Struct] = struct.Struct("!BBHIBBIIIII")
    _so: ClassVar[struct.Struct] = struct.Struct("!BIi")

    def body(self) -> bytes:
        r = self.reply
        numbers = self._numbers.pack(
            len(r.application_state),
            len(r.write_buffer),
            len(r.read_buffer),
            r.rcv_seq_snapshot,
            r.last_ack_sent,
            r.snd_seq_snapshot,
            r.snd_bytes_discard,
            r.snd_max_seen,
            r.attempt,
            r.key,
        )
        snapshots = self._tcp.pack(*astuple(r.tcp_snapshot)) + self._so.pack(*astuple(r.so_snapshot))
        parts = _pack_tuple(self.old), self.tag, numbers, snapshots, r.application_state, r.write_buffer, r.read_buffer
        return b"".join(parts)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        r = _Reader(body)
        old, tag = r.four_tuple(), r.take(keys.MAC_LENGTH)
        (n_state, n_write, n_read, rcv_snapshot, last_ack, snd_snapshot, discard, seen, attempt, key) = (
            cls._numbers.unpack(r.take(cls._numbers.size))
        )
        tcp, so = TcpSnapshot(*r.unpack(cls._tcp)), SoSnapshot(*r.unpack(cls._so))
        state, write_buffer, read_buffer = r.take(n_state), r.take(n_write), r.take(n_read)
        r.end()
        reply = StateReply(
            rcv_snapshot, last_ack, snd_snapshot, seen, discard, tcp, so, key, attempt, state, write_buffer, read_buffer
        )
        return cls(old, tag, reply)


@dataclass(frozen=True)
class StateReject:
    """Old server to new: no, for this reason."""

    type: ClassVar[FrameType] = FrameType.STATE_REJECT
    old: FourTuple
    attempt: int
    tag: bytes
    reason: Reason
    _layout: ClassVar[struct.Struct] = struct.Struct("!I8sH")

    def body(self) -> bytes:
        return _pack_tuple(self.old) + self._layout.pack(self.attempt, self.tag, self.reason)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        r = _Reader(body)
        old, (attempt, tag, reason) = r.four_tuple(), cls._layout.unpack(r.take(cls._layout.size))
        r.end()
        try:
            return cls(old, attempt, tag, Reason(reason))
        except ValueError as e:
            raise RemoteProtocolError(f"State reject with unknown reason {reason}") from e


@dataclass(frozen=True)
class _Outcome:
    """About the end of an attempt; `tag` is its request's MAC."""

    old: FourTuple
    attempt: int
    tag: bytes
    _layout: ClassVar[struct.Struct] = struct.Struct("!I8s")

    def body(self) -> bytes:
        return _pack_tuple(self.old) + self._layout.pack(self.attempt, self.tag)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        r = _Reader(body)
        old, (attempt, tag) = r.four_tuple(), cls._layout.unpack(r.take(cls._layout.size))
        r.end()
        return cls(old, attempt, tag)


@dataclass(frozen=True)
class Done(_Outcome):
    """New server to old: the client has committed; the connection is mine."""

    type: ClassVar[FrameType] = FrameType.DONE


@dataclass(frozen=True)
class DoneAck(_Outcome):
    """Old server to new: "done" heard."""

    type: ClassVar[FrameType] = FrameType.DONE_ACK


@dataclass(frozen=True)
class Query(_Outcome):
    """Old server, fenced, to new: what has become of this attempt? DONE or RELEASE answers, once that is known."""

    type: ClassVar[FrameType] = FrameType.QUERY


@dataclass(frozen=True)
class Release:
    """New server to old: the client has given this attempt up. `proof` is the MAC of the ABORT that it sent you."""

    type: ClassVar[FrameType] = FrameType.RELEASE
    old: FourTuple
    attempt: int
    tag: bytes
    proof: bytes
    _layout: ClassVar[struct.Struct] = struct.Struct("!I8s8s")

    def body(self) -> bytes:
        return _pack_tuple(self.old) + self._layout.pack(self.attempt, self.tag, self.proof)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        r = _Reader(body)
        old, (attempt, tag, proof) = r.four_tuple(), cls._layout.unpack(r.take(cls._layout.size))
        r.end()
        return cls(old, attempt, tag, proof)


Frame = StateRequest | StateReplyFrame | StateReject | Done | DoneAck | Query | Release
_PARSERS: dict[FrameType, Callable[[bytes], Frame]] = {
    c.type: c.parse for c in (StateRequest, StateReplyFrame, StateReject, Done, DoneAck, Query, Release)
}


def encode(frame: Frame) -> bytes:
    """Header and body; ValueError when the body is over MAX_BODY."""
    body = frame.body()
    if len(body) > MAX_BODY:
        raise ValueError(f"{frame.type.name} of {len(body)} bytes, at most {MAX_BODY} travel")
    return HEADER.pack(MAGIC, VERSION, COMPAT_VERSION, frame.type, len(body)) + body


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Add `data` and yield each frame that is complete.

        RemoteProtocolError ends the connection: after it the stream has no meaning.
        """
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            magic, version, compat, kind, length = HEADER.unpack_from(self._buffer)
            if magic != MAGIC:
                raise RemoteProtocolError("not an M-TCP control connection")
            if compat > VERSION:
                raise RemoteProtocolError(
                    f"frame of version {version} needs version {compat}, this is {VERSION}; upgrade"
                )
            if length > MAX_BODY:
                raise RemoteProtocolError(f"frame of {length} bytes, at most {MAX_BODY} are taken")
            if len(self._buffer) < HEADER.size + length:
                return
            with memoryview(self._buffer) as view:
                body = bytes(view[HEADER.size : HEADER.size + length])
            del self._buffer[: HEADER.size + length]
            try:
                parse = _PARSERS[FrameType(kind)]
            except ValueError as e:
                raise RemoteProtocolError(f"frame of unknown type {kind}") from e
            yield parse(body)
