"""Other traffic on a path: iperf3, TCP or UDP, between two hosts at a given rate.

What was asked for need not have been sent: TCP gives way, and a busy machine sends less. The report has all three:
asked, sent, received.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from testbed import generators
from testbed.processes import CommandError, Program

PORT = 5201
_ESTABLISHED, _LISTEN = "01", "0A"
_INTERRUPTED = "interrupt - "


class CrossTraffic:
    """One stream, or several in parallel, from `client` to `server`. As a context manager it is ended at its end."""

    def __init__(
        self,
        client: Any,
        server: Any,
        mbit: float | None,
        *,
        logs: Path,
        udp: bool = False,
        seconds: float = generators.LIMITS.seconds,
        streams: int = 1,
        address: str | None = None,
        port: int = PORT,
        congestion: str | None = None,
    ) -> None:
        """Start it, and wait until it flows. CommandError when it does not; the message says why.

        `mbit`: payload of all streams together, in Mbit/s; None: as much as TCP gets. `address`: the server's
        (default: that of its first interface). `congestion`: TCP's congestion control at the client. `logs`: the
        directory for what both ends print. ValueError for what makes no sense or is beyond generators.LIMITS.
        """
        generators.bounded(seconds=seconds)
        if (mbit is None and udp) or (mbit is not None and mbit <= 0) or streams < 1:
            raise ValueError(f"{streams} {'UDP' if udp else 'TCP'} streams of {mbit} Mbit/s make no sense")
        self.asked_mbit, self.udp, self._seconds = mbit, udp, seconds
        stem = f"iperf3-{client}-{server}-{port}"
        listen = ["iperf3", "--server", "--one-off", "--json", "--port", str(port)]
        send = ["iperf3", "--client", address or server.IP(), "--json", "--port", str(port)]
        send += ["--time", str(math.ceil(seconds)), "--parallel", str(streams)]
        send += ["--bitrate", str(round(0 if mbit is None else mbit * 1e6 / streams))]
        send += ["--udp"] if udp else ["--congestion", congestion] if congestion else []
        self.server = Program(server, listen, logs / f"{stem}-server.json")
        self.client: Program | None = None
        try:
            _wait(self.server, lambda: _has_socket(server.pid, port, _LISTEN), "is not listening")
            self.client = Program(client, send, logs / f"{stem}-client.json")
            _wait(self.client, lambda: _has_socket(server.pid, port, _ESTABLISHED), "has not connected")
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._kill()

    def result(self) -> dict[str, Any]:
        """Wait until its time is over; what was asked for, sent and received. CommandError when it failed."""
        return self._report(self._seconds + 20)

    def finish(self) -> dict[str, Any]:
        """End it now; the same."""
        if self.client is not None and self.client.process.poll() is None:
            self.client.process.send_signal(signal.SIGTERM)
        return self._report(20)

    def _report(self, timeout: float) -> dict[str, Any]:
        assert self.client is not None
        try:
            self.client.process.wait(timeout)
            self.server.process.wait(20)
        except subprocess.TimeoutExpired as error:
            self._kill()
            raise CommandError(f"{self.client.name} has not ended after {error.timeout:g} s") from None
        return report(self.asked_mbit, self.udp, _parsed(self.client), _parsed(self.server))

    def _kill(self) -> None:
        for program in (self.client, self.server):
            if program is not None and program.process.poll() is None:
                program.process.kill()
                program.process.wait()


def report(asked_mbit: float | None, udp: bool, client: dict[str, Any], server: dict[str, Any]) -> dict[str, Any]:
    """What was done, from the JSON of both ends (a client that is interrupted does not know what was received)."""
    sent, received = client["end"]["sum_sent"], server["end"]["sum_received"]
    seconds = sent["seconds"]
    found = {
        "protocol": "udp" if udp else "tcp",
        "asked_mbit": asked_mbit,
        "sent_mbit": round(8e-6 * sent["bytes"] / seconds, 3) if seconds else 0.0,
        "received_mbit": round(8e-6 * received["bytes"] / seconds, 3) if seconds else 0.0,
        "seconds": round(seconds, 3),
    }
    if udp:
        packets, lost = received["packets"], received["lost_packets"]
        return {**found, "packets": packets, "lost": lost, "jitter_ms": round(received["jitter_ms"], 4)}
    return {**found, "retransmits": sent["retransmits"]}


def _parsed(program: Program) -> dict[str, Any]:
    """What iperf3 says; CommandError when it says that it failed."""
    try:
        said: dict[str, Any] = json.loads(program.output())
    except ValueError:
        raise CommandError(f"{program.name} said no JSON: {program.output().strip()[-200:]}") from None
    fault = said.get("error", "")
    # That the client was ended by us is no failure.
    if fault and not fault.startswith(_INTERRUPTED) and fault != "the client has terminated":
        raise CommandError(f"{program.name}: {fault}")
    return said


def _wait(program: Program, condition: Callable[[], bool], fault: str, timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if program.process.poll() is not None:
            _parsed(program)
            raise CommandError(f"{program.name} ended with code {program.process.returncode}")
        if time.monotonic() > deadline:
            raise CommandError(f"{program.name} {fault} after {timeout:g} s")
        time.sleep(0.01)


def _has_socket(pid: int, port: int, state: str) -> bool:
    """Whether the network of process `pid` has a TCP socket with this local port and state."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, this, *_ = line.split()
                if this == state and int(local.rpartition(":")[2], 16) == port:
                    return True
    return False
