"""Play-out of a media stream, as its player saw it (testbed.clients.workloads.stream): the same for all mechanisms.

rebuffering_s        play-out halted, in all: by how much segments were done later than they were wanted
rebufferings         how often it halted
rebuffering_share    of the time from the fault to the end
startup_ms           the first segment, asked to done
buffer_s             media in the buffer, a row for each segment, when it was done: what was left of its time
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.observations import Observation
from analysis.trials import Moments


def observe(playout: pd.DataFrame, requests: pd.DataFrame, moments: Moments) -> Iterator[Observation]:
    late = lateness_s(playout, moments.end)
    halted = np.maximum(late, 0.0)
    yield Observation("rebuffering_s", float(halted.sum()), "s")
    yield Observation("rebufferings", float((halted > 0).sum()), "")
    if moments.end > moments.fault:
        yield Observation("rebuffering_share", float(halted.sum()) * 1e9 / (moments.end - moments.fault), "")
    if len(requests):
        first = requests.iloc[0]
        yield Observation("startup_ms", float(first["done_ns"] - first["asked_ns"]) / 1e6, "ms")
    done = moments.since_fault(playout["done_ns"].to_numpy(np.float64))
    for time, left in zip(done.tolist(), np.maximum(-late, 0.0).tolist(), strict=True):
        if not np.isnan(time):
            yield Observation("buffer_s", left, "s", time)


def lateness_s(playout: pd.DataFrame, end: int) -> NDArray[np.float64]:
    """By how much each segment was done after it was wanted, in seconds; one that was never done, by the end so far."""
    wanted = playout["wanted_at_ns"].to_numpy(np.float64)
    late = (playout["done_ns"].fillna(end).to_numpy(np.float64) - wanted) / 1e9
    found: NDArray[np.float64] = np.nan_to_num(late)  # of the first, when it was never done, nothing was wanted
    return found
