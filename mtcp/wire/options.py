"""The M-TCP option: experimental TCP option 253 (RFC 4727) with ExID 0x4D54, "MT" (RFC 6994).

    0               1               2               3
    +---------------+---------------+---------------+---------------+
    |   kind 253    |    length     |          ExID 0x4D54          |
    +---------------+---------------+-------+-------+---------------+
    |subtype|version|     flags     |  body of the subtype ...      |
    +-------+-------+---------------+-------------------------------+

CAPABLE rides on the kernel's own SYN and SYN-ACK. Every other subtype is a control segment: a TCP segment of
the connection's 4-tuple, made by an agent, in which this option comes first and which no kernel's TCP sees.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from mtcp import keys
from mtcp.errors import RemoteProtocolError
from mtcp.wire.moving import Abort, AbortAck, Accept, Ack3, Migrate, Query, Refusal, Reject, migrate_mac
from mtcp.wire.offering import AddServers, AddServersAck, Capable, Hint, HintAck, HintAnswer, HintReason
from mtcp.wire.option_body import Flags, Subtype

__all__ = [
    "Abort",
    "AbortAck",
    "Accept",
    "Ack3",
    "AddServers",
    "AddServersAck",
    "AnyOption",
    "Capable",
    "Flags",
    "Hint",
    "HintAck",
    "HintAnswer",
    "HintReason",
    "Migrate",
    "Query",
    "Refusal",
    "Reject",
    "SignedOption",
    "Subtype",
    "decode",
    "encode",
    "find",
    "is_authentic",
    "migrate_mac",
]

KIND = 253
EXID = 0x4D54
VERSION = 1
MAX_LENGTH = 40
_HEAD = struct.Struct("!BBHBB")

SignedOption = Accept | Ack3 | AddServers | AddServersAck | Abort | AbortAck | Query | Refusal | Hint | HintAck
AnyOption = Capable | Migrate | Reject | SignedOption
_CLASSES = (
    *(Capable, Migrate, Accept, Ack3, AddServers, AddServersAck),
    *(Reject, Abort, AbortAck, Query, Refusal, Hint, HintAck),
)
_PARSERS: dict[Subtype, Callable[[Flags, bytes], AnyOption]] = {c.subtype: c.parse for c in _CLASSES}


def is_authentic(option: SignedOption, key: bytes) -> bool:
    """Whether the option carries the MAC that `key` gives it."""
    return keys.matches(option.signed(key).mac, option.mac)


def encode(option: AnyOption) -> bytes:
    """The option's bytes, without padding."""
    body = option.body()
    length = _HEAD.size + len(body)
    if length > MAX_LENGTH:
        raise ValueError(f"{option.subtype.name} needs {length} bytes, TCP has room for {MAX_LENGTH}")
    return _HEAD.pack(KIND, length, EXID, option.subtype << 4 | VERSION, option.flags) + body


def decode(data: bytes) -> AnyOption:
    """Read one option from the start of `data`, which may be longer.

    Raises RemoteProtocolError when it is not ours, malformed, or of a version or subtype that we do not know.
    """
    if len(data) < _HEAD.size:
        raise RemoteProtocolError("M-TCP option cut short; dropped")
    kind, length, exid, what, flags = _HEAD.unpack_from(data)
    if kind != KIND or exid != EXID or not _HEAD.size <= length <= min(len(data), MAX_LENGTH):
        raise RemoteProtocolError("not an M-TCP option, or its length is wrong; dropped")
    if what & 15 != VERSION:
        raise RemoteProtocolError(f"M-TCP option of version {what & 15}, this is version {VERSION}; dropped")
    try:
        parse = _PARSERS[Subtype(what >> 4)]
    except ValueError as e:
        raise RemoteProtocolError(f"M-TCP option of unknown subtype {what >> 4}; dropped") from e
    return parse(Flags(flags & 1), data[_HEAD.size : length])


def find(tcp_options: bytes) -> AnyOption | None:
    """Our option among all the options of a TCP header; None when it is absent or not understood."""
    at = 0
    while at < len(tcp_options):
        kind = tcp_options[at]
        if kind == 0:
            return None
        length = 1 if kind == 1 else tcp_options[at + 1] if at + 1 < len(tcp_options) else 0
        if length < 1 or (kind != 1 and length < 2):
            return None
        if kind == KIND:
            try:
                return decode(tcp_options[at : at + length])
            except RemoteProtocolError:
                pass
        at += length
    return None
