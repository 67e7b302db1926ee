"""Was the machine up to the run? A monitor beside the experiment, and limits beyond which the run says nothing.

    with Run(...) as run, Monitor(run, net):
        ...

An emulated network shares one machine with all that runs on it: when that is overloaded, all hosts are slow together,
and a plot shows the machine and not the protocol. Mininet-HiFi (Handigol et al., CoNEXT 2012) calls what must hold then
invariants, and checks them; so does this. What it sees goes to fidelity.parquet (monotonic_ns, quantity, value); its
figures and the limits that were exceeded go to run.json. A run that would have succeeded is `invalid` then, with the
reason in words.

How busy the processors are is recorded, but has no limit: measured, they are busy to 100 % whether a small request
takes 0.1 or 8 ms, and the kernel's pressure (PSI) is no better. How late a program is woken tells (docs/testbed.md).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from testbed import machine, sleeper
from testbed.emulation.statistics import EmulationStats
from testbed.errors import TestbedError
from testbed.network import Network

if TYPE_CHECKING:
    from testbed.capture import Capture
    from testbed.results import Run

PERIOD = 0.1
"""Seconds between two looks at counters."""
EMULATION_PERIOD = 1.0
"""Between two looks at the emulator's, which take 10 ms of a processor."""
SLEEP_MS = 20
"""Between two wake-ups of each sleeper: 0.5 % of a processor for both, and 500 wake-ups in 10 s."""
ENOUGH = 100
"""Wake-ups, for a percentile: fewer, and one late one would be it."""


class FidelityError(TestbedError):
    """The network that the experiment runs in is no longer what it was."""


@dataclass(frozen=True)
class Limits:
    """What is exceeded makes a run invalid."""

    normal_p99_ms: float = 20.0
    """How late a program of normal priority that slept gets a processor, at 99 % of all moments. TCP's shortest timer
    is 40 ms (the delayed acknowledgement): programs that wait for half of it change what TCP does, not only when."""
    realtime_p99_ms: float = 5.0
    """The same at real-time priority, the delay line's: so late it sees that packets have come, which its own figures
    do not tell. What goes first then is the hypervisor, or a long system call of a kernel that is not preemptible."""
    stall_ms: float = 1000.0
    """And at worst. A second is TCP's first timeout; a machine that was suspended is later."""
    stolen: float = 0.05
    """Share of processor time that the hypervisor gave to others."""
    emulator_late_p99_ms: float = 1.5
    """How late packets left the delay line: as late as they may be in docs/testbed.md."""
    emulator_cpu: float = 0.9
    """Share of one processor that the delay line used; more than one it cannot use, and before that its queues grow."""
    emulator_drops: float = 0
    """Packets that the emulator lost without having been asked to."""
    capture_drops: float = 0
    """Packets that captures missed."""
    client_late_ms: float = 300.0
    """How late a client program began its work, which had a second to get ready (experiments.stage)."""

    @classmethod
    def read(cls, path: Path) -> Limits:
        """Those of the table [fidelity] of a TOML file, the others as above. TestbedError when it makes no sense."""
        known = {field.name for field in fields(cls)}
        try:
            table = tomllib.loads(path.read_text()).get("fidelity", {})
        except (OSError, ValueError) as error:
            raise TestbedError(f"{path}: {error}") from None
        for name, value in table.items():
            if name not in known:
                raise TestbedError(f"{path}: fidelity.{name} is no limit; there are {', '.join(sorted(known))}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise TestbedError(f"{path}: fidelity.{name} = {value!r} is no number from 0 on")
        return cls(**{name: float(value) for name, value in table.items()})


_WORDS: Mapping[str, str] = {
    "normal_p99_ms": "at 1 % of all moments a program waited for a processor for more than {:.1f} ms",
    "realtime_p99_ms": "at 1 % of all moments the machine stood still for more than {:.1f} ms",
    "stall_ms": "the machine stood still for {:.0f} ms",
    "stolen": "the hypervisor took {:.0%} of the processors' time",
    "emulator_late_p99_ms": "1 % of packets left the delay line more than {:.1f} ms late",
    "emulator_cpu": "the delay line used {:.0%} of the one processor that it can use",
    "emulator_drops": "the link emulator dropped {:.0f} packets of its own accord",
    "capture_drops": "captures missed {:.0f} packets",
    "client_late_ms": "a client was not ready in time: it began {:.0f} ms late",
}


def exceeded(figures: Mapping[str, Any], limits: Limits) -> list[str]:
    """What is wrong with `figures` (by the names of Limits; None: not known), in words."""
    wrong = []
    for name, limit in asdict(limits).items():
        value = figures.get(name)
        if value is not None and value > limit:
            wrong.append(f"{_WORDS[name].format(value)} (limit {limit:g})")
    return wrong


class Monitor:
    """Watches the machine, and the network `net`, from the beginning of a `with` block to its end.

    When the link emulator dies, the run is invalid at once (Run.void), and the block ends with FidelityError.
    """

    limits: ClassVar[Limits] = Limits()
    """Of all monitors that are not told otherwise."""

    def __init__(
        self, run: Run, net: Any = None, limits: Limits | None = None, captures: Mapping[str, Capture] | None = None
    ) -> None:
        """`net`: a testbed.network.Network; of any other Mininet only the machine is watched.

        `captures`: by host; looked at in the end, so they may be added, and must be stopped, inside the block.
        """
        self.figures: dict[str, Any] = {}
        """In the end: by the names of Limits, and more."""
        self.exceeded: list[str] = []
        self._run, self._net, self._captures = run, net, captures
        self._limits = limits or self.limits
        self._samples: list[tuple[int, str, float]] = []
        self._machine = _Machine()
        self._emulation = _Emulation(net) if isinstance(net, Network) else None
        self._sleepers: list[subprocess.Popen[bytes]] = []
        self._stop = threading.Event()
        self._died = ""
        self._lock = threading.Lock()  # held to interrupt the block, and to end it

    def __enter__(self) -> Self:
        self._wakeups, output = os.pipe()
        os.set_blocking(self._wakeups, False)
        for priority in sleeper.PRIORITIES:
            command = [sys.executable, "-I", "-S", sleeper.__file__, str(SLEEP_MS), priority]
            # A session of its own: the scheduler shares processors between sessions first, as between hosts.
            self._sleepers.append(subprocess.Popen(command, stdout=output, start_new_session=True))
        os.close(output)
        self._block = threading.current_thread()
        self._thread = threading.Thread(target=self._watch, name="fidelity", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        # The interrupt may arrive as late as here.
        with contextlib.suppress(KeyboardInterrupt), self._lock:
            self._stop.set()
        self._thread.join()
        self._look()
        if self._sleepers[0].poll() is not None:
            self.exceeded.append(f"the monitor did not see all: its sleeper ended with {self._sleepers[0].returncode}")
        for each in self._sleepers:
            each.kill()
            each.wait()
        os.close(self._wakeups)
        self._record()
        if self._died and (value is None or isinstance(value, KeyboardInterrupt)):
            raise FidelityError(self._died) from None

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD):
            self._look()
            if self._emulation is not None and (died := self._emulation.died):
                self._run.void(died)
                self._interrupt(died)
                return

    def _interrupt(self, died: str) -> None:
        """End the block: what would it wait for?"""
        with self._lock:
            self._died = died
            if not self._stop.is_set() and self._block is threading.main_thread():
                assert self._block.ident is not None
                signal.pthread_kill(self._block.ident, signal.SIGINT)

    def _look(self) -> None:
        now = time.monotonic_ns()
        seen = self._machine.since_last()
        if self._emulation is not None:
            seen |= self._emulation.since_last()
        self._samples += [(now, name, value) for name, value in seen.items()]
        with contextlib.suppress(BlockingIOError):
            # All that the pipe holds, and so whole records.
            for due, late, priority in sleeper.RECORD.iter_unpack(os.read(self._wakeups, 1 << 20)):
                self._samples.append((due, f"{sleeper.PRIORITIES[priority]}_ms", late / 1e6))

    def _record(self) -> None:
        """Write samples and figures."""
        import pyarrow  # slow to import: after the work

        at, quantities, values = zip(*self._samples, strict=True)
        by_quantity: dict[str, list[float]] = defaultdict(list)
        for quantity, value in zip(quantities, values, strict=True):
            by_quantity[quantity].append(value)
        self.figures = summarise(by_quantity)
        if self._emulation is not None:
            self.figures |= self._emulation.figures()
            self._run.metadata["emulation"] = self._emulation.name
        if self._captures:
            dropped = [capture.stats.dropped for capture in self._captures.values() if capture.stats is not None]
            self.figures["capture_drops"] = sum(dropped)
        self.exceeded += exceeded(self.figures, self._limits)
        table = pyarrow.table({"monotonic_ns": at, "quantity": pyarrow.array(quantities), "value": values})
        self._run.samples(table, "fidelity")
        self._run.fidelity({"figures": self.figures, "limits": asdict(self._limits), "exceeded": self.exceeded})


def summarise(samples: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The figures of the values of each quantity in fidelity.parquet; no percentiles of fewer than ENOUGH."""
    values = {name: np.array(each) for name, each in samples.items()}
    figures: dict[str, Any] = {}
    for name in ("busy", "stolen", "pressure"):
        if name in values:
            figures[name] = round(float(values[name].mean()), 4)
    for name in sleeper.PRIORITIES:
        if f"{name}_ms" in values:
            late = at_all_moments(values[f"{name}_ms"], SLEEP_MS)
            if len(late) >= ENOUGH:
                for percent, value in zip((50, 95, 99), np.percentile(late, (50, 95, 99)), strict=True):
                    figures[f"{name}_p{percent}_ms"] = round(float(value), 3)
            figures[f"{name}_max_ms"] = round(float(late.max()), 3)
    if "realtime_max_ms" in figures:
        figures["stall_ms"] = figures["realtime_max_ms"]
    return figures


def at_all_moments(late: NDArray[np.float64], period: float) -> NDArray[np.float64]:
    """With how late wake-ups would have been that did not take place, because the one before was late.

    Else a second without a processor would count as little as a millisecond, and percentiles would hide it.
    """
    missed = [np.arange(each - period, 0, -period) for each in late[late > period]]
    return np.concatenate([late, *missed])


class _Machine:
    """Shares of time, between one look and the next."""

    def __init__(self) -> None:
        self._before = self._read()

    def since_last(self) -> dict[str, float]:
        """`busy` and `stolen` of all processors, and how long some program waited for one (`pressure`, where known)."""
        now = self._read()
        moved = {name: value - self._before[name] for name, value in now.items()}
        self._before = now
        total = moved["total"]
        shares = {} if total <= 0 else {name: moved[name] / total for name in ("busy", "stolen")}
        if "pressure" in moved:
            shares["pressure"] = min(1.0, moved["pressure"] / max(moved["clock"], 1e-9))
        return shares

    @staticmethod
    def _read() -> dict[str, float]:
        ticks = machine.ticks()
        read: dict[str, float] = {"total": sum(ticks), "busy": sum(ticks) - ticks[3] - ticks[4], "stolen": ticks[7]}
        with contextlib.suppress(OSError, IndexError, ValueError):  # not every kernel has it
            some = Path("/proc/pressure/cpu").read_text().split("\n", 1)[0]
            read |= {"pressure": int(some.rpartition("=")[2]) / 1e6, "clock": time.monotonic()}
        return read


class _Emulation:
    """What the network's emulator tells of itself."""

    def __init__(self, net: Network) -> None:
        self._net = net
        self._first = self._before = self._last = net.emulation_stats()
        self._begun = self._looked = time.monotonic()

    @property
    def name(self) -> str:
        return self._net.emulation

    @property
    def died(self) -> str | None:
        return self._net.emulation_died

    def since_last(self) -> dict[str, float]:
        """Once in EMULATION_PERIOD: processor time, lateness and losses since the last time."""
        now = time.monotonic()
        if now - self._looked < EMULATION_PERIOD or not self._ask():
            return {}
        said = _told(self._last.since(self._before), now - self._looked)
        self._before, self._looked = self._last, now
        return said

    def figures(self) -> dict[str, float]:
        """Those of Limits, of all the time; until the last look, if it has died."""
        self._ask()
        return _told(self._last.since(self._first), time.monotonic() - self._begun)

    def _ask(self) -> bool:
        with contextlib.suppress(TestbedError):  # then it has died, and that is told elsewhere
            self._last = self._net.emulation_stats()
            return True
        return False


def _told(stats: EmulationStats, seconds: float) -> dict[str, float]:
    told = {"emulator_drops": float(sum(each.overflow for each in stats.directions.values()))}
    if stats.realtime is not None:
        told["emulator_cpu"] = round(stats.cpu / seconds, 4)
        if any(each.lateness for each in stats.directions.values()):
            told["emulator_late_p99_ms"] = round(stats.lateness(0.99) * 1e3, 3)
    return told
