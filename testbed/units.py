"""Bandwidths, times and shares as people write them: 100mbit, 40ms, 0.1%."""

from __future__ import annotations

import re

_BITS = {"bit": 1e-6, "kbit": 1e-3, "mbit": 1.0, "gbit": 1e3}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_NUMBER = re.compile(r"\s*(\d+\.?\d*|\.\d+|inf)\s*([a-z%]*)\s*", re.IGNORECASE)


def mbit(value: str | float) -> float:
    """Mbit/s of "100mbit", "2.5gbit", "64kbit", or of a number, which is Mbit/s; inf is no limit. ValueError."""
    return _in_units(value, _BITS, "mbit", "a bandwidth: write 100mbit, 1gbit or 500kbit")


def milliseconds(value: str | float) -> float:
    """Milliseconds of "40ms", "250us", "1s", or of a number, which is milliseconds. ValueError."""
    return _finite(value, _TIMES, "ms", "a time: write 40ms, 250us or 1s")


def percent(value: str | float) -> float:
    """Percent of "0.1%", or of a number, which is percent; 0 to 100. ValueError."""
    what = "a share: write 0.1%, at most 100%"
    result = _finite(value, {"%": 1.0}, "%", what)
    if result > 100:
        raise ValueError(f"{value} is not {what}")
    return result


def _finite(value: str | float, units: dict[str, float], default: str, what: str) -> float:
    result = _in_units(value, units, default, what)
    if result == float("inf"):
        raise ValueError(f"{value} is not {what}")
    return result


def _in_units(value: str | float, units: dict[str, float], default: str, what: str) -> float:
    """`value` as a multiple of the unit `default`; what is no number, or below zero, is not `what`."""
    match = _NUMBER.fullmatch(str(value))
    if match is None and isinstance(value, float | int) and value >= 0:  # such as 1e-05
        return float(value)
    unit = match[2].lower() or default if match else None
    if match is None or unit not in units:
        raise ValueError(f"{value} is not {what}")
    return float(match[1]) * units[unit]
