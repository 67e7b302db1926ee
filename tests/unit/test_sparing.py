"""The log's lines under a flood."""

from __future__ import annotations

import logging

import pytest

from mtcp.agent.sparing import PER_SECOND, Sparing

pytestmark = pytest.mark.unit


def record(created: float, line: int = 1) -> logging.LogRecord:
    made = logging.LogRecord("mtcp", logging.WARNING, "x.py", line, "bad segment of %s", ("10.0.0.1",), None)
    made.created = created
    return made


def test_lines_of_one_place_are_few_and_the_rest_is_counted() -> None:
    sparing = Sparing()
    assert sum(sparing.filter(record(5.5)) for _ in range(1000)) == PER_SECOND
    assert sparing.filter(record(5.9, line=2))
    after = record(6.1)
    assert sparing.filter(after)
    assert after.getMessage() == f"bad segment of 10.0.0.1 (and {1000 - PER_SECOND} more like it before)"
    usual = record(7.0)
    assert sparing.filter(usual) and usual.getMessage() == "bad segment of 10.0.0.1"
