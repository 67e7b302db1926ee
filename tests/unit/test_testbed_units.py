"""Bandwidths, times and shares as people write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testbed.units import mbit, milliseconds, percent


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (mbit, "100mbit", 100.0),
        (mbit, "2.5Gbit", 2500.0),
        (mbit, "64 kbit", 0.064),
        (mbit, "1000000bit", 1.0),
        (mbit, "10", 10.0),
        (mbit, 10, 10.0),
        (mbit, 1e-05, 1e-05),
        (mbit, float("inf"), float("inf")),
        (milliseconds, "40ms", 40.0),
        (milliseconds, "250us", 0.25),
        (milliseconds, ".5s", 500.0),
        (milliseconds, 0, 0.0),
        (percent, "0.1%", 0.1),
        (percent, "100", 100.0),
        (percent, 5, 5.0),
    ],
)
def test_units(read: Callable[[str | float], float], text: str | float, value: float) -> None:
    assert read(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (mbit, "-1"),
        (mbit, "10mbps"),  # tc's are bytes
        (mbit, "fast"),
        (mbit, ""),
        (mbit, float("nan")),
        (mbit, "10 %"),
        (milliseconds, "inf"),
        (milliseconds, "40 msec"),
        (milliseconds, -0.5),
        (percent, "101%"),
        (percent, "1ms"),
        (percent, None),
    ],
)
def test_what_is_none_is_refused(read: Callable[[str | float], float], text: str | float) -> None:
    with pytest.raises(ValueError, match=r"is not a (bandwidth|time|share): write") as error:
        read(text)
    assert "\n" not in str(error.value)
