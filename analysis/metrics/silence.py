"""Silence: times in which the application waited and nothing came. From deliveries, so the same for all mechanisms.

An application waits from its start to its end (download), or while a request is not answered (requests, stream): what
passes between an answer and the next request is no silence. Deliveries of a millisecond are one row, so a silence is
known to a millisecond; analysis.metrics.wire knows those of TCP better.

silence_ms           the longest from the fault to the end
silence_before_ms    the longest while undisturbed (analysis.trials.Moments): what is usual
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from analysis.capture import Ints
from analysis.observations import Observation
from analysis.trials import Client, Moments


def observe(client: Client, moments: Moments) -> Iterator[Observation]:
    found = silences(client, moments)
    yield Observation("silence_ms", longest_ms(found, moments.fault, moments.end), "ms")
    if moments.undisturbed is not None:
        yield Observation("silence_before_ms", longest_ms(found, *moments.undisturbed), "ms")


def silences(client: Client, moments: Moments) -> Ints:
    """(start, end) of each, in order. One that nothing ends lasts until the trial does."""
    times = client.deliveries["monotonic_ns"].to_numpy(np.int64)
    if client.requests.empty:
        asked, done = np.array([moments.start]), np.array([moments.end])
    else:
        asked = client.requests["asked_ns"].to_numpy(np.int64)
        done = client.requests["done_ns"].fillna(moments.end).to_numpy(np.int64)
    # In this order at the same instant: read, done, asked.
    points = np.concatenate([times, done, asked])
    kinds = np.repeat([0, 1, 2], [len(times), len(done), len(asked)])
    order = np.lexsort((kinds, points))
    points, kinds = points[order], kinds[order]
    begun = np.flatnonzero(kinds == 2)
    points, kinds = points[begun[0] :], kinds[begun[0] :]
    waiting = kinds[:-1] != 1
    found: Ints = np.column_stack([points[:-1], points[1:]])[waiting]
    return found


def longest_ms(found: Ints, start: int, end: int) -> float:
    """Of those that overlap with [start, end); 0 if none does."""
    overlapping = found[(found[:, 1] > start) & (found[:, 0] < end)]
    return float(np.diff(overlapping).max(initial=0)) / 1e6
