"""Sequence number arithmetic modulo 2^32 (RFC 9293 section 3.4); the only place where they are compared."""

from __future__ import annotations

MODULUS = 1 << 32
_MASK = MODULUS - 1


def add(seq: int, n: int) -> int:
    """The sequence number `n` bytes after `seq` (before it when `n` is negative)."""
    return (seq + n) & _MASK


def diff(a: int, b: int) -> int:
    """Signed distance a - b in bytes, in [-2^31, 2^31)."""
    return ((a - b + (1 << 31)) & _MASK) - (1 << 31)


def before(a: int, b: int) -> bool:
    """a < b in sequence space."""
    return diff(a, b) < 0


def after(a: int, b: int) -> bool:
    """a > b in sequence space."""
    return diff(a, b) > 0


def latest(a: int, b: int) -> int:
    """The later of the two."""
    return a if diff(a, b) >= 0 else b


def unwrap(seq: int, near: int) -> int:
    """The 64-bit stream offset closest to `near` whose low 32 bits are `seq`.

    Streams are longer than 4 GiB; offsets count from the stream's origin and never wrap.
    """
    return near + diff(seq, near & _MASK)
