"""Estimates with bootstrap confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval and the number of observations; what they cannot tell is None."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def as_dict(self) -> dict[str, Any]:
        """The figure's form in summary.json."""
        return {"value": self.value, "ci95": [self.low, self.high], "n": self.n}


def median(samples: ArrayLike, seed: int = 0) -> Estimate:
    """The median and its percentile bootstrap interval, the same for the same seed; NaNs do not count."""
    values = np.asarray(samples, float)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Estimate(None, None, None, 0)
    centre = float(np.median(values))
    if len(values) == 1:
        return Estimate(centre, None, None, 1)
    low, high = np.percentile(_resampled_medians(values, seed), _tails())
    return Estimate(centre, float(low), float(high), len(values))


def ratio(numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Estimate:
    """The median of the ratios of paired samples, resampled pair by pair.

    Raises ValueError if the samples do not pair up or a denominator is not positive.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} samples cannot be paired with {len(denominators)}")
    if not all(x > 0 and math.isfinite(x) for x in denominators):
        raise ValueError("a ratio needs positive denominators")
    return median(np.asarray(numerators, float) / np.asarray(denominators, float), seed)


def difference(first: ArrayLike, second: ArrayLike, seed: int = 0) -> Estimate:
    """Median of the second sample minus that of the first; they do not pair up. n: of the smaller one."""
    samples = [np.asarray(each, float) for each in (first, second)]
    one, other = (each[~np.isnan(each)] for each in samples)
    n = min(len(one), len(other))
    if n == 0:
        return Estimate(None, None, None, 0)
    centre = float(np.median(other) - np.median(one))
    if n == 1:
        return Estimate(centre, None, None, 1)
    low, high = np.percentile(_resampled_medians(other, seed) - _resampled_medians(one, seed + 1), _tails())
    return Estimate(centre, float(low), float(high), n)


def cliffs_delta(first: ArrayLike, second: ArrayLike) -> float | None:
    """Effect size: the share of pairs in which the first is larger, minus that in which it is smaller; None of nothing.

    0: no difference; ±1: no overlap. From 0.47 on it is called large (Romano et al. 2006).
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    if not len(one) or not len(other):
        return None
    return float(np.sign(one[:, None] - other[None, :]).mean())


def _resampled_medians(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The medians of RESAMPLES bootstrap samples, drawn in blocks that bound the memory."""
    generator = np.random.default_rng(seed)
    block = max(1, 2_000_000 // len(values))
    sizes = [min(block, RESAMPLES - done) for done in range(0, RESAMPLES, block)]
    draws = (generator.choice(values, (size, len(values))) for size in sizes)
    return np.concatenate([np.median(draw, axis=1) for draw in draws])


def _tails() -> list[float]:
    """The percentiles that enclose CONFIDENCE."""
    return [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
