"""A plan's trials on several machines, by dask.distributed: one at a time on each worker, none a second time by itself.

    dask scheduler                                                           on one machine
    sudo .venv/bin/dask worker tcp://HOST:8786 --nthreads 1 --resources trial=1       on each that performs trials
    sudo .venv/bin/python -m experiments run congestion --scheduler tcp://HOST:8786   here

Workers need the same revision of this code, and share no disk: what a trial leaves comes back as a tar. When a worker
goes, or leaves while a trial is under way, that attempt is invalid, and the runner decides about another one. dask
would perform the task again elsewhere, which is wrong for measurements; so a task belongs to one worker process.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments import attempt as attempts
from experiments.ledger import INTERRUPTED, Attempt, Entry, Ledger
from experiments.plan import Trial
from experiments.progress import Show
from experiments.runner import Perform
from testbed import doctor
from testbed.errors import TestbedError
from testbed.results import RESULTS, give_to_invoker

RESOURCE = "trial"
"""Of which each worker is to have one."""
CONNECT = 10.0
"""Seconds to wait for a scheduler."""
PATIENCE = 60.0
"""Seconds to wait for a worker when there is none."""
GONE = "its worker is gone"
"""Died, or left: which of both is seen first is chance."""
LOOK = 1.0
"""Seconds between two looks at who is there."""
START = f"start some: dask worker ADDRESS --nthreads 1 --resources {RESOURCE}=1"


@contextlib.contextmanager
def over(
    scheduler: str | None, workers: int, directory: Path, command: Sequence[str] = attempts.TRIAL
) -> Iterator[Perform]:
    """What performs trials on the workers of the `scheduler` (tcp://HOST:PORT), else on `workers` of this machine.

    `directory`: for what these keep on disk. TestbedError when there is no dask, or no scheduler.
    """
    try:
        import distributed
    except ImportError:
        raise TestbedError("dask.distributed is not installed: pip install -e '.[sweep]'") from None
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".dask-", dir=directory))
            local = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, resources={RESOURCE: 1}, memory_limit=0,
                dashboard_address=":0", local_directory=scratch, silence_logs=logging.CRITICAL,
            )  # fmt: skip
            address = stack.enter_context(local).scheduler_address
        else:
            address = scheduler
        try:
            client = stack.enter_context(distributed.Client(address, timeout=CONNECT))
        except (OSError, ValueError) as error:
            raise TestbedError(f"no dask scheduler at {address}: {error}") from None
        client.run_on_scheduler(_forbid_reruns)
        yield partial(_perform, client, tuple(command))


def _forbid_reruns(dask_scheduler: Any) -> None:
    """Of tasks whose worker died: at the first time they have failed. There is no such option of a task."""
    dask_scheduler.allowed_failures = 0


@dataclass
class _Job:
    entry: Entry
    attempt: Attempt
    worker: str


def _perform(client: Any, command: Sequence[str], ledger: Ledger, entries: Sequence[Entry], show: Show) -> None:
    """See experiments.runner.Perform."""
    from distributed import wait

    crew, waiting, jobs = _Crew(client), deque(entries), dict[Any, _Job]()
    limits = None if ledger.limits is None else ledger.limits.read_text()
    try:
        while waiting or jobs:
            crew.look(alone=not jobs)
            for future in [future for future, job in jobs.items() if job.worker not in crew.ids and not future.done()]:
                _lost(future, jobs.pop(future), GONE, ledger, show)
            for worker in crew.ids.keys() - {job.worker for job in jobs.values()}:
                if waiting:
                    job = _Job(entry := waiting.popleft(), ledger.begin(entry), worker)
                    job.attempt.where = worker
                    show.begun(entry)
                    future = client.submit(
                        perform_here, entry.trial.as_json(), job.attempt.run, limits, command, crew.ids[worker],
                        key=job.attempt.run, workers=[worker], resources={RESOURCE: 1}, retries=0, pure=False,
                    )  # fmt: skip
                    jobs[future] = job
            show.at_once = max(1, len(jobs))
            with contextlib.suppress(TimeoutError):
                wait(list(jobs), timeout=LOOK, return_when="FIRST_COMPLETED")
            for future in [future for future in jobs if future.done()]:
                _gather(future, jobs.pop(future), ledger, show)
    except BaseException:
        for job in jobs.values():
            job.attempt.verdict, job.attempt.reason = INTERRUPTED, "its runner was told to stop"
        ledger.save()
        with attempts.uninterrupted(), contextlib.suppress(Exception):
            client.run(attempts.end_all, workers=[job.worker for job in jobs.values()])
        raise


class _Crew:
    """The workers that can perform trials."""

    def __init__(self, client: Any) -> None:
        self.ids: dict[str, str] = {}
        """By address, what only that very process has."""
        self._client = client
        self._refused: dict[str, str] = {}
        self._alone_since: float | None = None

    def look(self, alone: bool) -> None:
        """See who is there. TestbedError when there is nobody for too long, and nothing under way (`alone`)."""
        known = self._client.scheduler_info(n_workers=-1)["workers"]
        able = {address for address, about in known.items() if about["resources"].get(RESOURCE)}
        self.ids = {address: name for address, name in self.ids.items() if address in able}
        new = sorted(able - self.ids.keys() - self._refused.keys())
        for address, (name, refusal) in self._client.run(_introduce, workers=new).items() if new else ():
            if refusal:
                self._refused[address] = f"{address}: {refusal}"
            else:
                self.ids[address] = name
        if self.ids or not alone:
            self._alone_since = None
            return
        self._alone_since = self._alone_since or time.monotonic()
        if self._refused:
            raise TestbedError(f"no worker can perform trials: {'; '.join(self._refused.values())}")
        if time.monotonic() > self._alone_since + PATIENCE:
            raise TestbedError(f"no dask worker has the resource {RESOURCE!r}; {START}")


def _introduce(dask_worker: Any) -> tuple[str, str]:
    """On a worker: which process this is, and why it cannot perform trials, or ""."""
    refusal = ""
    try:
        doctor.require_all()
    except SystemExit as said:
        refusal = str(said)
    return str(dask_worker.id), refusal


def perform_here(
    trial: str, run: str, limits: str | None, command: Sequence[str], process: str
) -> tuple[dict[str, Any], bytes]:
    """On a worker: perform the trial; the attempt, and a tar of what it left. RuntimeError in another process."""
    from distributed import get_worker

    worker = get_worker()
    if worker.id != process:
        raise RuntimeError("its worker was restarted")
    attempt = Attempt(run, where=worker.address)
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sweep-", dir=RESULTS) as name:
        directory = Path(name).resolve()
        if limits is not None:
            (directory / "limits.toml").write_text(limits)
        attempts.Site(directory, None if limits is None else directory / "limits.toml", command).perform(
            Trial.from_json(trial), attempt
        )
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            if (directory / "runs" / run).exists():
                tar.add(directory / "runs" / run, run)
        return asdict(attempt), packed.getvalue()


def _gather(future: Any, job: _Job, ledger: Ledger, show: Show) -> None:
    """Note what came of a task that is done."""
    from distributed import KilledWorker

    if future.status != "finished":
        error = future.exception() if future.status == "error" else "it was cancelled"
        _lost(future, job, GONE if isinstance(error, KilledWorker) else str(error), ledger, show)
        return
    said, packed = future.result()
    runs = ledger.directory / "runs"
    runs.mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(runs, filter="data")
    give_to_invoker(runs, runs / job.attempt.run)
    for name, value in said.items():
        setattr(job.attempt, name, value)
    ledger.save()
    show.ended(job.entry, job.attempt)


def _lost(future: Any, job: _Job, why: str, ledger: Ledger, show: Show) -> None:
    future.release()
    job.attempt.verdict, job.attempt.reason = "invalid", f"{why} ({job.worker})"
    ledger.save()
    show.ended(job.entry, job.attempt)
