"""Packet captures on a host's interface. Verdicts rest on them: what a capture lost is never hidden."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from testbed.processes import CommandError, Program

SNAPLEN = 160
"""Bytes kept of each packet: all headers with their options, and a little payload."""
_BUFFER = 65536  # KiB
_FLUSH = 5.0  # seconds; libpcap lets the kernel keep packets for one
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

    def __init__(self, host: Any, path: Path, interface: str | None = None, filter: str = "tcp") -> None:
        """Write packets that match `filter`, with time stamps in ns, to the pcap file `path`.

        `interface`: a name, default the first of the Mininet `host`. Returns when the capture runs;
        CommandError if it does not start. tcpdump's messages are beside the file, in *.log.
        """
        name = interface or host.defaultIntf().name
        command = ["tcpdump", "-i", name, "-s", str(SNAPLEN), "--time-stamp-precision=nano"]
        # -Z root: else tcpdump becomes another user, who may not write here.
        command += ["-B", str(_BUFFER), "-Z", "root", "-n", "-w", str(path), *filter.split()]
        self.path = path
        self.stats: CaptureStats | None = None
        """None until it has stopped."""
        self._program = Program(host, command, path.with_suffix(".log"))
        self._program.wait_for("tcpdump: listening on")

    def stop(self) -> CaptureStats:
        """End the capture; everything seen so far is in the file. CommandError if tcpdump had died.

        Takes up to a second: so long the kernel may keep packets before tcpdump gets them, and tcpdump ends
        without them if told to.
        """
        if self.stats is None:
            seen, deadline = self._report(signal.SIGUSR1), time.monotonic() + _FLUSH
            now = seen
            while now.captured + now.dropped < seen.received and time.monotonic() < deadline:
                time.sleep(0.02)
                now = self._report(signal.SIGUSR1)
            lost = max(0, seen.received - now.captured - now.dropped)
            final = self._report(signal.SIGINT)
            self.stats = final._replace(dropped=final.dropped + lost)
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
