"""What goes wrong outside the testbed's code."""

from __future__ import annotations


class TestbedError(Exception):
    """Something outside does not work as needed; the message, one line, is for the user."""

    __test__ = False  # no test class, whatever pytest thinks of its name
