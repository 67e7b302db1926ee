"""Processes that burn CPU: so much of a core each, as far as they get it."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from testbed import generators

_PERIOD = 0.02  # seconds; of a burner that works and rests in turn


def burn(
    processes: int, share: float, seconds: float, *, steps: int = 1, every: float = 1.0, wait: bool = False
) -> dict[str, Any]:
    """Let `processes` use `share` (0 to 1) of a core each; what they got, in cores. ValueError beyond LIMITS.

    They begin in `steps`, `every` seconds apart. `wait`: for SIGUSR1; see generators.Until.
    """
    generators.bounded(processes=processes)
    if not 1 <= steps <= processes or every <= 0:
        raise ValueError(f"{processes} processes cannot begin in {steps} steps, {every:g} s apart")
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share:g} is not above 0 and no more than 1 core")
    fork = multiprocessing.get_context("fork")
    until, go = generators.Until(seconds, wait), fork.Event()
    pipes = [fork.Pipe(duplex=False) for _ in range(processes)]
    delays = [number * steps // processes * every for number in range(processes)]
    children = [
        fork.Process(target=_burn, args=(share, until, go, delay, said))
        for delay, (_, said) in zip(delays, pipes, strict=True)
    ]
    for child in children:
        child.start()
    until.announce()
    if not until.over:
        go.set()
    while not until.over:
        time.sleep(until.pause(1.0))
    for child in children:
        child.terminate()  # they end by themselves, unless this is earlier than planned
    go.set()
    used = [heard.recv() for heard, _ in pipes]
    for child in children:
        child.join()
    return {
        "processes": processes,
        "seconds": round(until.passed, 3),
        "asked_cores": round(processes * share, 4),
        "cores": round(sum(used), 4),
    }


def _burn(share: float, until: generators.Until, go: Event, delay: float, said: Connection) -> None:
    """Burn, `delay` seconds after the beginning; say how much of a core it was, since the beginning."""
    go.wait()
    until.begin()
    while until.passed < delay and not until.over:
        time.sleep(until.pause(delay - until.passed))
    if until.over:
        said.send(0.0)
        return
    begun_cpu = time.process_time()
    while not until.over:
        # By CPU time: what others took away in this period is not caught up in the next.
        period_end, worked = time.monotonic() + _PERIOD, time.process_time() + share * _PERIOD
        while time.process_time() < worked and time.monotonic() < period_end:
            pass
        if share < 1:
            time.sleep(until.pause(period_end - time.monotonic()))
    said.send((time.process_time() - begun_cpu) / until.passed)
