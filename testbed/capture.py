"""Packet captures on a host's interface. Verdicts rest on them: what a capture lost is never hidden."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from testbed.processes import CommandError, Program

SNAPLEN = 160
"""Bytes kept of each packet: all headers with their options, and a little payload."""
_BUFFER = 65536  # KiB
_KEPT = 1.0  # seconds; so long libpcap lets the kernel keep packets
_FLUSH = 5.0  # seconds; for a tcpdump that is slow to get them
_COUNTERS = re.compile(
    r"(\d+) packets? captured\W+(\d+) packets? received by filter\W+(\d+) packets? dropped by kernel"
)


class CaptureStats(NamedTuple):
    """What tcpdump says at the end."""

    captured: int
    """Packets in the file."""
    received: int
    """Packets that matched the filter."""
    dropped: int
    """Packets that matched and are not in the file: if not 0, no verdict holds."""


class Capture:
    """tcpdump on an interface of a host, from construction until `stop` (or the end of the `with` block)."""

    def __init__(
        self,
        host: Any,
        path: Path,
        interface: str | None = None,
        filter: str = "tcp",
        *,
        snaplen: int = SNAPLEN,
        rotate: int | None = None,
    ) -> None:
        """Write packets that match `filter`, with time stamps in ns, to the pcap file `path`.

        `interface`: a name, default the first of the Mininet `host`. `snaplen`: bytes kept of each packet. `rotate`: MB
        (10^6 bytes) after which the next file begins: x.pcap, x.pcap1, x.pcap2 …; none is ever removed, and analysis
        reads them as one. Files of an earlier capture to `path` are. Returns when the capture runs; CommandError if it
        does not start. tcpdump's messages are beside the file, in *.log.
        """
        name = interface or host.defaultIntf().name
        command = ["tcpdump", "-i", name, "-s", str(snaplen), "--time-stamp-precision=nano"]
        command += [] if rotate is None else ["-C", str(rotate)]
        # -Z root: else tcpdump becomes another user, who may not write here.
        command += ["-B", str(_BUFFER), "-Z", "root", "-n", "-w", str(path), *filter.split()]
        for old in files(path):
            old.unlink()
        self.path = path
        self._unfiltered = 0
        """Packets that came before tcpdump had set its filter, which the kernel counts and libpcap throws away."""
        self.stats: CaptureStats | None = None
        """None until it has stopped."""
        self._program = Program(host, command, path.with_suffix(".log"), beside=True)
        try:
            self._program.wait_for("tcpdump: listening on")
            self._unfiltered = _missing(self._report(signal.SIGUSR1))
        except BaseException:
            self._program.stop()
            raise

    def stop(self) -> CaptureStats:
        """End the capture; everything seen so far is in the file. CommandError if tcpdump had died.

        Takes up to a second: so long the kernel may keep packets before tcpdump gets them, and tcpdump ends
        without them if told to.
        """
        if self.stats is None:
            seen = now = self._report(signal.SIGUSR1)
            begun, patience = time.monotonic(), _FLUSH
            while _missing(now, seen) and time.monotonic() < begun + patience:
                time.sleep(0.02)
                now = self._report(signal.SIGUSR1)
                patience = _FLUSH if _missing(now, seen) > self._unfiltered else 2 * _KEPT
            unfiltered = min(_missing(now, seen), self._unfiltered)
            final = self._report(signal.SIGINT)
            lost = _missing(now, seen) - unfiltered
            self.stats = CaptureStats(final.captured, final.received - unfiltered, final.dropped + lost)
        return self.stats

    def _report(self, number: signal.Signals) -> CaptureStats:
        """Send tcpdump a signal on which it prints its counters, and read them."""
        before = len(self._counters())
        if number == signal.SIGINT:
            self._program.stop(number, timeout=20)
        else:
            self._program.process.send_signal(number)
        deadline = time.monotonic() + 5
        while len(self._counters()) <= before:
            if self._program.process.poll() is not None or time.monotonic() > deadline:
                last = " | ".join(self._program.output().splitlines()[-3:])
                raise CommandError(f"{self._program.name} has died: {last}")
            time.sleep(0.005)
        return self._counters()[-1]

    def _counters(self) -> list[CaptureStats]:
        return [CaptureStats(*map(int, numbers)) for numbers in _COUNTERS.findall(self._program.output())]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _missing(now: CaptureStats, seen: CaptureStats | None = None) -> int:
    """Packets that the kernel has counted (when they were `seen`) and that tcpdump has not got by `now`."""
    return max(0, (seen or now).received - now.captured - now.dropped)


def files(path: Path) -> list[Path]:
    """The files of the capture `path`, in the order they were written."""
    later = [file for file in path.parent.glob(f"{path.name}*") if file.name[len(path.name) :].isdigit()]
    return [path] * path.exists() + sorted(later, key=lambda file: int(file.name[len(path.name) :]))


@contextlib.contextmanager
def capturing(
    hosts: Iterable[Any], directory: Path, prefix: str = "", filters: Mapping[str, str] | None = None, **options: Any
) -> Iterator[dict[str, Capture]]:
    """Capture at all `hosts`, from before the block until after it; yields the captures by the hosts' names.

    The files are <prefix><host>.pcap in `directory`. `filters`: by host, where not all TCP; `options`: see Capture.
    CommandError, and no capture is left, when one does not start or has died.
    """
    filters = filters or {}

    def start(host: Any) -> tuple[str, Capture]:
        what = filters.get(host.name, "tcp")
        return host.name, stack.enter_context(Capture(host, directory / f"{prefix}{host}.pcap", filter=what, **options))

    hosts = list(hosts)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(hosts) or 1) as pool:
        captures = dict([job.result() for job in [pool.submit(start, host) for host in hosts]])
        try:
            yield captures
        finally:  # at once: each waits for its kernel's buffer
            stopping = [pool.submit(capture.stop) for capture in captures.values()]
            for job in stopping:
                job.result()


def drops(captures: Mapping[str, Capture]) -> dict[str, int]:
    """How many packets each of the captures, which have been stopped, lost."""
    return {name: capture.stats.dropped for name, capture in captures.items() if capture.stats}
