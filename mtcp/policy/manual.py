"""Only the operator moves connections (`mtcp migrate`); hints are declined."""

from __future__ import annotations

from mtcp.policy.base import Policy


class Manual(Policy):
    """Only the operator moves connections."""
