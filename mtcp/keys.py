"""Message authentication with the connection's key (PROTOCOL.md, "No blind hijack")."""

from __future__ import annotations

import hashlib
import hmac

KEY_LENGTH = 8
MAC_LENGTH = 8


def mac(key: bytes, label: str, *fields: bytes) -> bytes:
    """HMAC-SHA256 of `fields` under `key`, cut to 8 bytes; `label` keeps messages of different kinds apart.

    Fields are length-prefixed, so that no two lists of fields give the same input.
    """
    message = hmac.new(key, label.encode(), hashlib.sha256)
    for field in fields:
        message.update(len(field).to_bytes(2, "big") + field)
    return message.digest()[:MAC_LENGTH]


def matches(a: bytes, b: bytes) -> bool:
    """Compare two MACs in constant time."""
    return hmac.compare_digest(a, b)
