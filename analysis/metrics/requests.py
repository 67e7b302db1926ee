"""Requests and their answers, as the application saw them: the same for all mechanisms.

request_ms                a request: asked to last byte, at the time it was asked; of one that was not answered, what it
                          had waited, if that is longer than half of the others took (a lower bound, not to be dropped)
request_first_byte_ms     asked to first byte
request_p50_ms, _p95_, _p99_   of those asked from the fault on
request_before_p50_ms     of those asked while undisturbed (analysis.trials.Moments)
request_rate              answers per second from the fault to the end; request_rate_before: as before
request_kept              the one over the other
requests_unanswered       those that waited in vain, as above: 0 or 1 of a closed loop
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.observations import Observation
from analysis.trials import Moments

QUANTILES = (50, 95, 99)


def observe(requests: pd.DataFrame, moments: Moments) -> Iterator[Observation]:
    asked = requests["asked_ns"].to_numpy(np.int64)
    took, cut = latencies_ms(requests, moments.end)
    first = (requests["first_byte_ns"].to_numpy(np.float64) - asked) / 1e6
    for time, total, begun in zip(moments.since_fault(asked).tolist(), took.tolist(), first.tolist(), strict=True):
        yield Observation("request_ms", total, "ms", time)
        yield Observation("request_first_byte_ms", begun, "ms", time)
    after = took[(asked >= moments.fault) & ~np.isnan(took)]
    for quantile in QUANTILES:
        value = float(np.percentile(after, quantile)) if len(after) else np.nan
        yield Observation(f"request_p{quantile}_ms", value, "ms")
    left = rate(requests, moments.fault, moments.end)
    yield Observation("request_rate", left, "1/s")
    yield Observation("requests_unanswered", float(cut.sum()), "")
    if moments.undisturbed is not None:
        begin, end = moments.undisturbed
        before = took[(asked >= begin) & (asked < end) & ~np.isnan(took)]
        usual = rate(requests, begin, end)
        yield Observation("request_before_p50_ms", float(np.median(before)) if len(before) else np.nan, "ms")
        yield Observation("request_rate_before", usual, "1/s")
        yield Observation("request_kept", left / usual if usual > 0 else np.nan, "")


def latencies_ms(requests: pd.DataFrame, end: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(asked to done, or to the end; whether it was to the end). NaN: cut off so soon that it says nothing."""
    asked = requests["asked_ns"].to_numpy(np.float64)
    took = (requests["done_ns"].to_numpy(np.float64) - asked) / 1e6
    waited = (end - asked) / 1e6
    usual = float(np.nanmedian(took)) if (~np.isnan(took)).any() else 0.0
    cut = np.isnan(took) & (waited > usual)
    return np.where(cut, waited, took), cut


def rate(requests: pd.DataFrame, start: int, end: int) -> float:
    """Answers per second that were done in [start, end); NaN if that is empty."""
    done = requests["done_ns"]
    return float(((done >= start) & (done < end)).sum()) * 1e9 / (end - start) if end > start else float("nan")
