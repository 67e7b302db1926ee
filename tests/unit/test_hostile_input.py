"""Every parser against hostile input, for seconds; tests/fuzz does the same for hours (make fuzz)."""

from __future__ import annotations

import logging
import operator
import tracemalloc
from collections.abc import Iterator
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcp.wire import frames, options
from tests.fuzz import __main__ as fuzz
from tests.fuzz import agent, parsers
from tests.fuzz.parsers import Target
from tests.messages import FRAMES, OPTIONS

TARGETS = {**parsers.TARGETS, **agent.TARGETS}
every = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
MEMORY = 16 << 20
"""Bytes that an input of a few kilobytes may cost."""


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


def test_every_message_is_a_seed() -> None:
    assert {option.subtype for option in OPTIONS} == set(options.Subtype)
    assert {frame.type for frame in FRAMES} == set(frames.FrameType)
    assert list(TARGETS) == list(fuzz.NAMES)


@every
def test_seeds(target: Target) -> None:
    """Valid input, whole, cut at every length, and with each byte in turn set to 0, 255, and a bit more."""
    for seed in sorted(target.seeds(), key=len)[:12]:
        target.run(seed)
        step = max(1, len(seed) // 64)
        for at in range(0, len(seed), step):
            target.run(seed[:at])
            for byte in (0, 255, seed[at] ^ 1, (seed[at] + 1) & 255):
                target.run(seed[:at] + bytes([byte]) + seed[at + 1 :])


@every
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_mutations(target: Target, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(target.seeds()))
    start = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(start, len(seed)))
    target.run(seed[:start] + data.draw(st.binary(max_size=32)) + seed[end:])


@every
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_garbage(target: Target, data: st.DataObject) -> None:
    target.run(data.draw(st.binary(max_size=128)))


@every
def test_memory_is_bounded(target: Target) -> None:
    """Also when all length fields say 255s, or the text is all opening brackets."""
    seeds = [seed[: len(seed) // 2] for seed in target.seeds()]
    hostile = [b"\xff" * target.max_length, b"[" * 100_000, b'{"op":' * 20_000, *(s + b"\xff" * 64 for s in seeds)]
    target.run(b"")
    tracemalloc.start()
    try:
        for data in hostile:
            target.run(data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("syn", b"\x60" + bytes(43), id="a SYN cut inside its TCP header"),
        pytest.param("syn", b"\x4f" + bytes(63), id="a SYN cut inside its IP options"),
        pytest.param("local", b'{"op": "listen"}\0{"op": "listen"}', id="one listens twice"),
        pytest.param("local", b"tt {", id="descriptors beside what is not JSON"),
        pytest.param("local", b"[" * 100_000, id="deep nesting"),
        pytest.param("pool", b"x = " + b"[" * 10_000, id="a pool file nested deeply"),
        pytest.param("run", b'{"schema_version": 1, "facts": 5}\n', id="facts that are a number"),
        pytest.param("run", b"[" * 100_000, id="a record nested deeply"),
    ],
)
def test_what_fuzzing_has_found(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


def test_events_that_are_no_text() -> None:
    [seed] = TARGETS["run"].seeds()
    for tail in (b"\n\x94\n{}", b"\n5\n{}", b"\n" + b"[" * 100_000 + b"\n{}"):
        TARGETS["run"].run(seed + tail)


def test_arrays_are_compared_without_atheris() -> None:
    """It keeps every result for ever: a long run of `capture` was out of memory."""
    trace_cmp = Mock()
    compare, array = fuzz.tracing(trace_cmp, 4), np.arange(5)
    for number, name in enumerate(("lt", "le", "eq", "ne", "gt", "ge")):
        for left, right in ((array, 2), (2, array), (array, array[::-1])):
            expected = getattr(operator, name)(left, right)
            assert np.array_equal(compare(left, right, number << 4, 7, False), expected)
    trace_cmp.assert_not_called()
    for left, right in ((1, 2), (b"1", b"2"), ("1", "2")):
        assert compare(left, right, 2 << 4, 7, True) is trace_cmp.return_value
        trace_cmp.assert_called_with(left, right, 2 << 4, 7, True)
