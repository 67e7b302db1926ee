"""Policies: when a connection moves, and where. Nothing in the mechanism knows why it does.

A policy is chosen by name for a client's agent (`mtcp agent --policy NAME[:parameter=value,…]`, `mtcp policy`); every
connection gets one of its own. It sees what the agent does, and has no clock: the agent asks it. An application may ask
one likewise. docs/policies.md compares them.
"""

from mtcp.policy.base import Known, Policy, View
from mtcp.policy.registry import DEFAULT, NAMES, SUMMARIES, Spec, load, make

__all__ = ["DEFAULT", "NAMES", "SUMMARIES", "Known", "Policy", "Spec", "View", "load", "make"]
