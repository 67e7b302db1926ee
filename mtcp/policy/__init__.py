"""Policies: when a connection moves, and where. Nothing in the mechanism knows why it does.

A policy is chosen by name for a client's agent (`mtcp agent --policy NAME[:parameter=value,…]`); every connection gets
one of its own. It sees what the mapping sees, and has no clock: the agent asks it.
"""

from mtcp.policy.base import Policy, View
from mtcp.policy.registry import DEFAULT, NAMES, make

__all__ = ["DEFAULT", "NAMES", "Policy", "View", "make"]
