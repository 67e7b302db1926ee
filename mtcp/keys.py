"""Message authentication with the connection's key (PROTOCOL.md, "No blind hijack")."""

from __future__ import annotations

import hashlib
import hmac

KEY_LENGTH = 8
MAC_LENGTH = 8


def mac(key: bytes, label: str, *fields: bytes) -> bytes:
    """Keyed BLAKE2b (RFC 7693) of `fields`, 8 bytes; `label` keeps messages of different kinds apart.

    Fields are length-prefixed, so that no two lists of fields give the same input.
    """
    message = hashlib.blake2b(label.encode(), key=key, digest_size=MAC_LENGTH)
    for field in fields:
        message.update(len(field).to_bytes(2, "big") + field)
    return message.digest()


def matches(a: bytes, b: bytes) -> bool:
    """Compare two MACs in constant time."""
    return hmac.compare_digest(a, b)
