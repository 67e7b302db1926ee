"""Observations: what is written of each run as samples.parquet, and read of many runs as one tidy frame.

from analysis import load
frame = load("results/overload/latest")
frame[frame.metric == "kept"].groupby(["scenario", "mechanism"])["value"].median()
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from analysis.run import Run, RunError, read_object

SCHEMA_VERSION = 2
"""Of samples.parquet, and of summary.json of trials. 1 had no units."""
NAME = "samples.parquet"

_SCHEMA = pa.schema(
    [
        ("metric", pa.string()),
        ("time", pa.float64()),
        ("server", pa.string()),
        ("value", pa.float64()),
        ("unit", pa.string()),
    ]
)
_VERSION_KEY = b"observations"
RUN_COLUMNS = (
    "run_id", "scenario", "factors", "mechanism", "policy", "repetition", "seed", "emulation", "verdict", "reason",
)  # fmt: skip
COLUMNS = (*RUN_COLUMNS, *_SCHEMA.names)
VERDICTS = ("succeeded", "failed", "unsupported", "invalid")


class Observation(NamedTuple):
    """One thing that was seen in a run."""

    metric: str
    value: float
    unit: str
    time: float = float("nan")
    """Seconds since the fault (trials), or since the first byte; NaN for what holds for the run as a whole."""
    server: str = ""
    """Whom it is about, if it is about one."""


def frame(observations: Iterable[Observation]) -> pd.DataFrame:
    """One row each, without those whose value is NaN: nothing was observed."""
    made = pd.DataFrame(observations, columns=list(Observation._fields)).astype({"value": "float64", "time": "float64"})
    observed: pd.DataFrame = made.loc[made["value"].notna(), _SCHEMA.names].reset_index(drop=True)
    return observed


def write(directory: Path, observed: pd.DataFrame) -> None:
    """Write the observations (as of `frame`) of the run in `directory`: samples.parquet and samples.csv."""
    schema = _SCHEMA.with_metadata({_VERSION_KEY: str(SCHEMA_VERSION).encode()})
    parquet.write_table(pa.Table.from_pandas(observed[_SCHEMA.names], schema, preserve_index=False), directory / NAME)
    observed.to_csv(directory / "samples.csv", index=False)


def load(*results: Path | str, metrics: Iterable[str] | None = None) -> pd.DataFrame:
    """All observations of the runs at or below the directories `results`, one a row: columns COLUMNS.

    `factors` is JSON with sorted keys, the same for the same factors (see `spread`). `time` is in seconds since the
    fault, NaN for what holds for the whole run. A run that has no observations, as one that is unsupported or invalid
    may, is one row whose `metric` is "" and whose value is NaN: so no run gets lost, whatever is selected. `metrics`:
    only these, and such rows.

    RunError for what is no results, for runs that nobody has judged (`python -m analysis judge`), and for those that
    another version has written.
    """
    wanted = None if metrics is None else set(metrics)
    frames = [_of_run(directory, wanted) for each in results for directory in _runs(Path(each))]
    if not frames:
        raise RunError(f"no runs in {', '.join(map(str, results))}: a run has run.json and {NAME}")
    return pd.concat(frames, ignore_index=True)


def spread(loaded: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column for each factor, named as it is, in place of `factors`."""
    unique = {text: json.loads(text) for text in loaded["factors"].unique()}
    table = pd.DataFrame([unique[text] for text in loaded["factors"]], index=loaded.index)
    return pd.concat([loaded.drop(columns="factors"), table], axis=1)


def runs(loaded: pd.DataFrame) -> pd.DataFrame:
    """The runs of a loaded frame, a row each: columns RUN_COLUMNS."""
    return loaded.drop_duplicates("run_id")[list(RUN_COLUMNS)].reset_index(drop=True)


def key(factors: dict[str, Any]) -> str:
    """Factors as text, the same for the same factors."""
    return json.dumps(factors, sort_keys=True)


def _runs(directory: Path) -> Iterator[Path]:
    """The directories of runs, in order of their names; not those behind links such as `latest`."""
    directory = directory.resolve()
    if not directory.is_dir():
        raise RunError(f"{directory} is not a directory")
    for record in sorted(directory.rglob("run.json")):
        if not any(each.is_symlink() for each in record.parents if directory in each.parents):
            yield record.parent


def _of_run(directory: Path, metrics: set[str] | None) -> pd.DataFrame:
    run = Run.load(directory, needed=())
    verdict, reason = run.record.get("verdict"), str(run.record.get("reason", ""))
    summary = directory / "summary.json"
    if verdict != "unsupported" and summary.exists():
        judged = read_object(summary, ("verdict",))
        verdict, reason = judged["verdict"], str(judged.get("reason", ""))
    if verdict not in VERDICTS:
        raise RunError(f"{directory}: {verdict} is no verdict")
    observed = _read(directory / NAME) if (directory / NAME).exists() else None
    if observed is None and verdict in ("succeeded", "failed"):
        raise RunError(f"{directory} has no {NAME}: python -m analysis judge {directory}")
    if observed is not None and metrics is not None:
        observed = observed[observed["metric"].isin(metrics)]
    if observed is None or observed.empty:
        observed = pd.DataFrame([("", np.nan, "", np.nan, "")], columns=_SCHEMA.names)
    about = {
        "run_id": run.id, "scenario": run.scenario, "factors": key(run.factors), "mechanism": run.mechanism,
        "policy": str(run.record.get("policy", "")), "repetition": int(run.record.get("repetition", 0)),
        "seed": int(run.record.get("seed", 0)), "emulation": str(run.record.get("emulation", "")),
        "verdict": verdict, "reason": reason,
    }  # fmt: skip
    return observed.assign(**about)[list(COLUMNS)]


def _read(path: Path) -> pd.DataFrame:
    """The file's observations; RunError for one of another version or form."""
    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"1").decode()
    if version != str(SCHEMA_VERSION):
        raise RunError(
            f"{path} has version {version} of observations, and only {SCHEMA_VERSION} is read: "
            "judge the run again (python -m analysis judge, or report)"
        )
    if not table.schema.remove_metadata().equals(_SCHEMA):
        raise RunError(f"{path} is no table of observations: it has {', '.join(table.schema.names)}")
    observed: pd.DataFrame = table.to_pandas()
    return observed
