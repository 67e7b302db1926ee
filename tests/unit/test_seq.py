"""Sequence arithmetic: laws that hold wherever on the circle the numbers lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtcp import seq

pytestmark = pytest.mark.unit
numbers = st.integers(0, seq.MODULUS - 1) | st.integers(-5, 5).map(lambda n: n % seq.MODULUS)
distances = st.integers(-(2**31) + 1, 2**31 - 1)


@pytest.mark.parametrize(
    ("a", "n", "sum_"),
    [(0, 1, 1), (0xFFFFFFFF, 1, 0), (0, -1, 0xFFFFFFFF), (0xFFFFFFF0, 0x20, 0x10), (0x10, -0x20, 0xFFFFFFF0)],
)
def test_add_wraps(a: int, n: int, sum_: int) -> None:
    assert seq.add(a, n) == sum_


@given(numbers, distances)
def test_diff_undoes_add(a: int, n: int) -> None:
    assert seq.diff(seq.add(a, n), a) == n


@given(numbers, distances)
def test_order_is_that_of_the_distance(a: int, n: int) -> None:
    b = seq.add(a, n)
    assert seq.after(b, a) == (n > 0)
    assert seq.before(b, a) == (n < 0)
    assert seq.latest(a, b) == (b if n > 0 else a)
    assert seq.latest(b, a) == seq.latest(a, b)


def test_half_a_circle_is_before() -> None:
    assert seq.diff(2**31, 0) == -(2**31)
    assert seq.before(2**31, 0) and seq.before(0, 2**31)


@given(st.integers(0, 2**63), distances)
def test_unwrap_finds_the_offset_again(offset: int, lag: int) -> None:
    """However often the stream has wrapped, and whether `near` is ahead or behind."""
    assert seq.unwrap(offset % seq.MODULUS, offset + lag) == offset


def test_unwrap_beyond_4_gib() -> None:
    assert seq.unwrap(0x00000010, 0x3_FFFFFFF0) == 0x4_00000010
    assert seq.unwrap(0xFFFFFFF0, 0x4_00000010) == 0x3_FFFFFFF0
