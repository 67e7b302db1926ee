"""Goodput: body bytes that the application read, over time. From deliveries, so the same for all mechanisms.

goodput_mbps         a bin of BIN_MS each, by its start
goodput_before_mbps  mean while undisturbed (analysis.trials.Moments)
goodput_after_mbps   mean from the fault to the end
kept                 the share of goodput that is left: after / before
dip_mb               lost goodput: MB that are missing at the end, of what it would be had goodput stayed as before
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.capture import Ints
from analysis.observations import Observation
from analysis.trials import Moments

BIN_MS = 100


def observe(deliveries: pd.DataFrame, moments: Moments, paced: bool = False) -> Iterator[Observation]:
    """All of them. `paced`: by a player, whose buffer is filled before the fault: then rates do not compare."""
    for time, mbps in zip(*series(deliveries, moments), strict=True):
        yield Observation("goodput_mbps", mbps, "Mbit/s", time)
    before, after = undisturbed(deliveries, moments), mean_mbps(deliveries, moments.fault, moments.end)
    yield Observation("goodput_after_mbps", after, "Mbit/s")
    if not paced:
        yield Observation("goodput_before_mbps", before, "Mbit/s")
        yield Observation("kept", after / before if before > 0 else np.nan, "")
        yield Observation("dip_mb", (before - after) * (moments.end - moments.fault) / 8e9, "MB")


def undisturbed(deliveries: pd.DataFrame, moments: Moments) -> float:
    """Mbit/s while undisturbed; NaN if there is no such time."""
    return float("nan") if moments.undisturbed is None else mean_mbps(deliveries, *moments.undisturbed)


def mean_mbps(deliveries: pd.DataFrame, start: int, end: int) -> float:
    """Mbit/s of what was read in [start, end); NaN if that is empty."""
    if end <= start:
        return float("nan")
    times = deliveries["monotonic_ns"]
    return float(deliveries.loc[(times >= start) & (times < end), "bytes"].sum()) * 8e3 / (end - start)


def series(deliveries: pd.DataFrame, moments: Moments, bin_ms: float = BIN_MS) -> tuple[list[float], list[float]]:
    """(start of the bin in seconds since the fault, Mbit/s) of each bin that lies within the trial.

    The fault is where a bin begins, so that none holds what was before and what was after.
    """
    width = round(bin_ms * 1e6)
    first, last = -((moments.fault - moments.start) // width), (moments.end - moments.fault) // width
    bins: Ints = (deliveries["monotonic_ns"].to_numpy(np.int64) - moments.fault) // width - first
    within = (bins >= 0) & (bins < last - first)
    sums = np.bincount(bins[within], deliveries["bytes"].to_numpy()[within], minlength=last - first)
    return (np.arange(first, last) * width / 1e9).tolist(), (sums * 8e3 / width).tolist()
