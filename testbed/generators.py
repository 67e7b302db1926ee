"""What all generators of load and attacks share: bounds, where they may run, when they end, how they report.

A generator is a program on a host (python -m testbed.load, python -m testbed.attack). It prints `started` when its work
begins and, at its end, one line of JSON: what it really did. SIGTERM ends it early, with its report.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from testbed import sandbox
from testbed.errors import TestbedError
from testbed.processes import CommandError, Program

STARTED = "started"
_PATIENCE = 60.0
"""Seconds. A host with a small quota takes long to start Python."""
ADDRESSES = ip_network("10.0.0.0/8"), ip_network("fd00::/8")
"""Of the testbed's networks: nothing else is a target or a forged source."""


@dataclass(frozen=True)
class Limits:
    """What is never exceeded."""

    rate: float = 200_000
    """Packets, or requests, a second."""
    seconds: float = 600.0
    count: int = 5_000_000
    """Packets, or requests."""
    connections: int = 10_000
    """At a time."""
    processes: int = 256
    mib: int = 4096


LIMITS = Limits()


def bounded(**values: float | None) -> None:
    """ValueError unless all `values`, by the names of Limits, are positive and within LIMITS; None is not looked at."""
    for name, value in values.items():
        most = getattr(LIMITS, name)
        if value is not None and not 0 < value <= most:
            raise ValueError(f"{name}: {value:g} is not above 0 and no more than {most:g}")


def refuse_outside() -> None:
    """TestbedError unless this is a host of a sandbox: not the machine's own network, nor the switches'."""
    try:
        own, first = (Path(f"/proc/{process}/ns/net").stat().st_ino for process in ("self", 1))
    except PermissionError:  # process 1 is none of a sandbox
        own = first = 0
    if not sandbox.inside() or own == first:
        raise TestbedError("this loads hosts of the testbed only: run it on one of them, inside a sandbox")


def target(text: str) -> tuple[str, int]:
    """IP address and port of "ADDRESS:PORT"; ValueError for any that is not in ADDRESSES."""
    address, _, port = text.rpartition(":")
    ip = ip_address(address.strip("[]"))
    if not any(ip in network for network in ADDRESSES):
        raise ValueError(f"{ip} is no address of the testbed ({' or '.join(map(str, ADDRESSES))})")
    return str(ip), int(port)


class Until:
    """The end of the work: `seconds` after its beginning, or SIGTERM or SIGINT before that.

    The beginning is now; with `wait`, when SIGUSR1 comes: what takes long to start is ready by then.
    """

    def __init__(self, seconds: float, wait: bool = False) -> None:
        bounded(seconds=seconds)
        self._seconds, self._wait, self._stopped = seconds, wait, False
        if wait:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.begin()

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopped = True

    def begin(self) -> None:
        """Now it begins."""
        self.begun = time.monotonic()

    def announce(self) -> None:
        """Say that the work begins; or that it can, and wait until it is to."""
        announce()
        if not self._wait:
            return
        ends = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        came = signal.sigtimedwait({signal.SIGUSR1, *ends}, LIMITS.seconds)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
        self._stopped |= came is None or came.si_signo != signal.SIGUSR1
        self.begin()

    @property
    def passed(self) -> float:
        """Seconds since the beginning; a millisecond at least, for rates are had by it."""
        return max(0.001, time.monotonic() - self.begun)

    @property
    def left(self) -> float:
        """Seconds to go; 0 when it is over."""
        return 0.0 if self._stopped else max(0.0, self.begun + self._seconds - time.monotonic())

    @property
    def over(self) -> bool:
        return not self.left

    def pause(self, seconds: float) -> float:
        """How long to sleep now when `seconds` are to be slept, so that a signal is noticed soon."""
        return max(0.0, min(seconds, self.left, 0.05))


def allow_descriptors() -> None:
    """As many open files as the kernel lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def announce() -> None:
    """Say that the work begins."""
    print(STARTED, flush=True)


def run(name: str, work: Callable[[], Mapping[str, Any]]) -> int:
    """Do the `work` of the generator `name` and print its report; the exit status. Failures are one line."""
    try:
        refuse_outside()
        print(json.dumps(work()), flush=True)
    except (TestbedError, ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


class Generator(Program):
    """A generator that runs on a host."""

    def __init__(self, host: Any, module: str, *words: object, log: Path) -> None:
        """Start `module` ("testbed.load") with these arguments on `host`, and wait until it works.

        CommandError when it refuses; the message says why. `log`: the file that its output goes to.
        """
        super().__init__(host, [sys.executable, "-m", module, *map(str, words)], log)
        self.name = f"{module} {words[0] if words else ''} on {host}"
        self.wait_for(STARTED, _PATIENCE)

    def begin(self) -> None:
        """Let it begin, if it waits."""
        self.process.send_signal(signal.SIGUSR1)

    def result(self, timeout: float = LIMITS.seconds + _PATIENCE) -> dict[str, Any]:
        """Wait until it ends by itself; its report. CommandError when it fails or takes longer than `timeout` s."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise CommandError(f"{self.name} has not ended after {timeout:g} s") from None
        lines = self.output().strip().splitlines()
        if code != 0:
            raise CommandError(f"{self.name} ended with code {code}: {lines[-1] if lines else 'it printed nothing'}")
        report: dict[str, Any] = json.loads(lines[-1])
        return report

    def finish(self, timeout: float = 20.0) -> dict[str, Any]:
        """End it now, if it still runs; its report."""
        self.process.terminate()
        return self.result(timeout)
