"""Policies: when a connection moves, and where. Nothing in the mechanism knows why it does.

A policy is chosen by name for a client's agent (`mtcp agent --policy NAME[:parameter=value,…]`, `mtcp policy`); every
connection gets one of its own. It sees what the agent does, and has no clock: the agent asks it. An application may ask
one likewise. A server may have a policy, too (`mtcp agent --server-policy`): when it asks clients to leave it.
docs/policies.md compares them all.
"""

from mtcp.policy.base import Known, Policy, View
from mtcp.policy.registry import DEFAULT, NAMES, SERVER_NAMES, SUMMARIES, Parameters, Spec, load, make, make_server
from mtcp.policy.serving import HostView, ServerPolicy

__all__ = [
    "DEFAULT",
    "NAMES",
    "SERVER_NAMES",
    "SUMMARIES",
    "HostView",
    "Known",
    "Parameters",
    "Policy",
    "ServerPolicy",
    "Spec",
    "View",
    "load",
    "make",
    "make_server",
]
