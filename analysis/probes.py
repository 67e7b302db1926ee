"""What probes sampled of the hosts while a run lasted, as data frames.

A probe writes a value when it has changed: `read` gives those rows, `table` the values at every sample. Times are
CLOCK_MONOTONIC; with realtime_minus_monotonic_ns of run.json added, they are those of the captures.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

COLUMNS = ["monotonic_ns", "host", "probe", "subject", "metric", "value"]
_NAMES = COLUMNS[1:5]


class ProbeError(ValueError):
    """The file does not have a probe's samples; the message is one line that says why."""


def files(directory: Path | str) -> list[Path]:
    """The probes' files in a run's directory: .parquet, or .csv where a probe was not stopped but killed."""
    found = Path(directory).glob("probes-*")
    return sorted(path for path in found if path.suffix in (".parquet", ".csv"))


def read(*paths: Path | str) -> pd.DataFrame:
    """The rows of all `paths`: one value of a metric, which holds until the next row of it.

    Columns: `monotonic_ns` (int64), `host`, `probe` (tcp, qdisc, cpu, netstat, sampler), `subject` (a connection as
    "LOCAL REMOTE", a queue as "INTERFACE KIND HANDLE:", a control group, a group of counters), `metric`, `value`
    (float64). A subject that is no more has the metric `gone`. Raises ProbeError for other files, OSError if one cannot
    be read.
    """
    samples = pd.concat([_read(Path(path)) for path in paths], ignore_index=True)
    return samples.astype({"monotonic_ns": "int64", "value": "float64"} | dict.fromkeys(_NAMES, "category"))


def table(samples: pd.DataFrame, probe: str, host: str, subject: str | None = None) -> pd.DataFrame:
    """The values at every sample of the `host`: a row per subject and time (the index), a column per metric.

    A subject has rows from the sample that saw it first to the last one before it was gone.
    """
    mine = samples[(samples["host"] == host) & (samples["probe"].isin([probe, "sampler"]))]
    times = pd.Index(mine.loc[mine["metric"] == "late_us", "monotonic_ns"].unique(), name="monotonic_ns")
    mine = mine[(mine["probe"] == probe) & (True if subject is None else mine["subject"] == subject)]
    tables = {name: _at(times, rows) for name, rows in mine.groupby(mine["subject"].astype(str), sort=False)}
    if not tables:
        return pd.DataFrame(index=pd.MultiIndex.from_arrays([[], []], names=["subject", "monotonic_ns"]))
    return pd.concat(tables, names=["subject"])


def _at(times: pd.Index[int], rows: pd.DataFrame) -> pd.DataFrame:
    """The values of one subject at `times`, as far as it was there."""
    changes = rows.pivot(index="monotonic_ns", columns="metric", values="value")
    changes.columns = changes.columns.astype(str)
    there = changes.drop(columns="gone", errors="ignore").notna().any(axis=1)  # and none when it is gone
    values = changes.reindex(times[times >= changes.index[0]])
    return values.ffill()[there.reindex(values.index).ffill().astype(bool)].drop(columns="gone", errors="ignore")


def _read(path: Path) -> pd.DataFrame:
    try:
        samples = _csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
        if list(samples.columns) != COLUMNS:
            raise ValueError(f"the columns are {_listed(samples.columns)}, not {_listed(COLUMNS)}")
        kinds = [pd.api.types.is_integer_dtype(samples[COLUMNS[0]]), pd.api.types.is_float_dtype(samples[COLUMNS[-1]])]
        if not all(kinds):
            raise ValueError("times are whole numbers, and values numbers")
    except ValueError as error:  # pyarrow's own errors, and pandas', are ValueErrors
        reason = str(error).splitlines()[0]
        raise ProbeError(f"{path} has no samples of a probe: {reason}") from None
    return samples


def _csv(path: Path) -> pd.DataFrame:
    whole, newline, _ = path.read_bytes().rpartition(b"\n")  # a killed probe's last line may be cut short
    return pd.read_csv(io.BytesIO(whole + newline), keep_default_na=False, dtype={"value": "float64"})


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
