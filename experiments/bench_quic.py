"""How fast aioquic is, and what limits it: for docs/quic.md. Only who knows its limits can compare with it.

link     aioquic's own algorithms, in virtual time, on a link of 100 Mbit/s with a queue of 250 packets: no processor is
         too slow, no machine busy; how late a program is woken is part of what is tried
network  the client program, with TCP and with QUIC, in topologies/two_servers: bytes, and CPU time of both ends

    python -m experiments.bench_quic link
    sudo .venv/bin/python -m experiments.bench_quic network

`--realtime` lets both programs of `network` go before all others: for a machine that is not idle.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ProtocolNegotiated, StreamDataReceived

from testbed import certificates, quic, sandbox
from testbed.processes import Program, checked
from topologies.two_servers import ADDRESSES, running

BW = 100e6
QUEUE = 250 * 1500
HEADERS = 42
"""Bytes of Ethernet, IP and UDP."""
SERVER_PACKET, CLIENT_PACKET = 40e-6, 35e-6
"""Seconds of CPU time, as `network` found."""
AHEAD = 1 << 18
BATCH = 64
SECONDS = 6
LATE = 0.01


@dataclass
class Link:
    """A server that sends for ever, its client, and what is between them."""

    rtt: float
    control: str
    ours: bool
    """Whether connections have our Pacer."""
    late: float
    """Share of wake-ups that come 10 ms late."""
    now: float = 0.0
    dropped: int = 0
    received: list[int] = field(default_factory=lambda: [0] * SECONDS)
    """Bytes, by second."""

    def run(self, credentials: certificates.Credentials) -> None:
        """Let SECONDS pass."""
        asking, serving = quic.configuration(client=True), quic.configuration(client=False)
        serving.congestion_control_algorithm = self.control
        serving.load_cert_chain(*credentials)
        asking.load_verify_locations(str(credentials.certificate))
        asking.server_name = ADDRESSES["s1"]
        client = quic.Windowed(configuration=asking)
        first = client.original_destination_connection_id
        server = QuicConnection(configuration=serving, original_destination_connection_id=first)
        if self.ours:
            quic.paced(server)
        self._ends: list[QuicConnection] = [client, server]
        self._inbox: list[list[bytes]] = [[], []]
        self._busy, self._free, self._stream = [0.0, 0.0], 0.0, -1
        self._random, self._numbers = random.Random(1), itertools.count()
        self._heap: list[tuple[float, int, int, bytes | None]] = []
        self._wake: list[float] = [math.inf, math.inf]
        client.connect("server", now=0.0)
        self._act(0)
        while self._heap:
            self.now, _, end, data = heapq.heappop(self._heap)
            if self.now >= SECONDS:
                return
            if data is not None:
                self._inbox[end].append(data)
                self._call(end, self.now)
            elif self._wake[end] == self.now:
                self._wake[end] = math.inf
                if self._random.random() < self.late:
                    self._busy[end] = self.now + LATE
                    self._call(end, self.now)
                else:
                    self._act(end)

    def _call(self, end: int, at: float) -> None:
        """Have it act then, or as soon as it can."""
        at = max(at, self._busy[end])
        if at < self._wake[end]:
            self._wake[end] = at
            heapq.heappush(self._heap, (at, next(self._numbers), end, None))

    def _act(self, end: int) -> None:
        connection, took = self._ends[end], 0.0
        for data in self._inbox[end][:BATCH]:
            connection.receive_datagram(data, ("server", "client")[end], self.now)
            took += (CLIENT_PACKET, SERVER_PACKET)[end]
        del self._inbox[end][:BATCH]
        timer = connection.get_timer()
        if timer is not None and timer <= self.now:
            connection.handle_timer(self.now)
        for event in iter(connection.next_event, None):
            if isinstance(event, StreamDataReceived) and end == 0:
                self.received[int(self.now)] += len(event.data)
            elif isinstance(event, StreamDataReceived):
                self._stream = event.stream_id
            elif isinstance(event, ProtocolNegotiated) and end == 0:
                connection.send_stream_data(connection.get_next_available_stream_id(), b"?", end_stream=True)
        if end == 1 and self._stream >= 0:
            sender = connection._streams[self._stream].sender
            while sender._buffer_stop - sender.highest_offset < AHEAD:
                connection.send_stream_data(self._stream, bytes(AHEAD))
        for data, _ in connection.datagrams_to_send(self.now):
            took += SERVER_PACKET
            self._send(end, data, self.now + took)
        self._busy[end] = self.now + took
        if self._inbox[end]:
            self._call(end, self.now)
        timer = connection.get_timer()
        if timer is not None:
            wait = max(0.0, timer - self._busy[end])
            self._call(end, self._busy[end] + math.ceil(wait * 1000) / 1000)  # as epoll does

    def _send(self, end: int, data: bytes, at: float) -> None:
        arrives = at + self.rtt / 2
        if end == 1:
            if (self._free - at) * BW / 8 > QUEUE:
                self.dropped += 1
                return
            self._free = max(at, self._free) + (len(data) + HEADERS) * 8 / BW
            arrives = self._free + self.rtt / 2
        heapq.heappush(self._heap, (arrives, next(self._numbers), 1 - end, data))


def link() -> Iterator[str]:
    """Lines of a table."""
    yield "| RTT | congestion control | pacer | woken 10 ms late | Mbit/s, second by second | lost packets |"
    yield "|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as directory:
        credentials = certificates.make(Path(directory), [ADDRESSES["s1"]])
        for rtt, late, control, ours in itertools.product((20, 80), (0, 0.03), ("reno", "cubic"), (False, True)):
            tried = Link(rtt / 1000, control, ours, late)
            tried.run(credentials)
            speeds = " ".join(f"{each * 8e-6:.0f}" for each in tried.received)
            pacer = "ours" if ours else "aioquic's"
            yield f"| {rtt} ms | {control} | {pacer} | {late:.0%} | {speeds} | {tried.dropped} |"


def network(seconds: float, realtime: bool) -> Iterator[str]:
    """Lines of a table; in a sandbox."""
    yield "| link | | Mbit/s | client: CPU | server: CPU | server: memory | set-up |"
    yield "|---|---|---|---|---|---|---|"
    first = ["chrt", "-r", "1"] if realtime else []
    credentials = certificates.make(sandbox.RUN / "quic", [ADDRESSES["s1"]])
    for bw, rtt in ((100, 20), (100, 80), (None, None)):
        with running(agents=False, big=2_000_000_000 if bw is None else 200_000_000, bw=bw, rtt=rtt) as net:
            checked(net.client, "ping", "-c1", ADDRESSES["s1"])  # they know each other's hardware addresses then
            for kind, service, port, options in (
                ("tcp", "files", 80, ["--plain"]),
                ("quic", "quic_files", 443, ["--credentials", str(credentials.key.parent)]),
            ):
                command = [
                    sys.executable,
                    "-m",
                    f"testbed.services.{service}",
                    "--directory",
                    str(net.directory),
                    *options,
                ]
                server = Program(net.s1, [*first, *command], sandbox.RUN / "server.log")
                server.wait_for("listening")
                begun, out = _cpu(server), sandbox.RUN / "out"
                where = ["--connect", kind, "--servers", f"s1={ADDRESSES['s1']}:{port}", "--out", str(out)]
                start_at = time.monotonic() + 2
                when = ["--start-at", str(start_at), "--end-at", str(start_at + seconds)]
                believed = ["--ca", str(credentials.certificate)]
                client = [sys.executable, "-m", "testbed.clients.http", "download", *where, *when, *believed]
                checked(net.client, *first, *client)
                told = json.loads((out / "client.json").read_text())
                memory = next(x for x in _proc(server, "status").splitlines() if x.startswith("VmHWM")).split()[1]
                took = (told["ended_ns"] - told["started_ns"]) / 1e9
                set_up = (told["connections"][0]["opened_ns"] - told["started_ns"]) / 1e6
                shares = [f"{cpu / took:.0%}" for cpu in (told["cpu_s"], _cpu(server) - begun)]
                yield (
                    f"| {f'{bw} Mbit/s, {rtt} ms' if bw else 'unlimited'} | {kind} | {told['bytes'] * 8e-6 / took:.1f} "
                    f"| {shares[0]} | {shares[1]} | {int(memory) // 1000} MB | {set_up:.0f} ms |"
                )
                server.stop()


def _cpu(program: Program) -> float:
    """Seconds."""
    words = _proc(program, "stat").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def _proc(program: Program, name: str) -> str:
    return Path(f"/proc/{program.process.pid}/{name}").read_text()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("link", "network"))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each download of `network` (8)")
    parser.add_argument("--realtime", action="store_true")
    options = parser.parse_args()
    if options.what == "network":
        sandbox.enter()
    for line in link() if options.what == "link" else network(options.seconds, options.realtime):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
