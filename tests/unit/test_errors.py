"""What the errors say of themselves."""

from __future__ import annotations

import errno

from mtcp.errors import Fenced


def test_a_fenced_connection_would_block() -> None:
    """As any socket that cannot go on now: programs look for EAGAIN."""
    assert Fenced().errno == errno.EAGAIN
