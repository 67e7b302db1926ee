"""Record what policies see, for tests/unit/test_policies_recorded.py: real connections, 100 Mbit/s, 20 ms.

    sudo .venv/bin/python tests/data/policies/record.py [NAME ...]

Each recording is one connection's views, as the client's agent shows them to a policy every 20 ms, in a Parquet file
NAME.parquet beside this one: time in seconds from the fault on (negative before it), received, sent and the rest by the
names of mtcp.policy.View; rtt_current and rtt_other are of the probes. What happens in which, `SITUATIONS` below says.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import pandas as pd

from mtcp import cli
from mtcp.address import Endpoint
from mtcp.policy import Policy, View, registry
from testbed import sandbox
from testbed.cpu import set_cpu
from testbed.cross_traffic import CrossTraffic
from testbed.processes import Program
from topologies import dumbbell

HERE = Path(__file__).parent
BEFORE, AFTER = 5.0, 5.0
"""Seconds of the recording before and after the fault."""
PLAIN = [field.name for field in fields(View) if field.name not in ("current", "others", "servers")]
TIMES = ("now", "asked_at", "heard_at")


class Recorder(Policy):
    """Stays, and writes down what it sees."""

    interval = 0.02
    wants_kernel = True
    wants_probes = True
    to = Path()

    def __init__(self) -> None:
        self._file = self.to.open("a", encoding="utf-8")

    def observe(self, view: View) -> Endpoint | None:
        row = {name: getattr(view, name) for name in PLAIN}
        row["rtt_current"] = view.known(view.current).rtt
        row["rtt_other"] = view.known(view.others[0]).rtt if view.others else None
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        return None


Network = dumbbell.Running
Fault = Callable[[Network], Any]


def cross_traffic(net: Network) -> CrossTraffic:
    return CrossTraffic(net.net["x2"], net.net["x1"], 95.0, udp=True, logs=net.logs)


def cross_tcp(net: Network) -> CrossTraffic:
    return CrossTraffic(net.net["x2"], net.net["x1"], None, streams=8, logs=net.logs)


def starved(net: Network) -> None:
    set_cpu(net.servers[0], 0.001)


def lossy(net: Network) -> None:
    net.set("sw1", "sw2", loss=3.0)


def farther(net: Network) -> None:
    net.set("sw1", "sw2", delay=40.0)


def nothing(net: Network) -> None:
    """No fault."""


DOWNLOAD = ["curl", "-sS", "-o", "/dev/null", "http://10.0.1.1/big"]
SLOW_READER = [*DOWNLOAD[:-1], "--limit-rate", "1M", DOWNLOAD[-1]]


def client(workload: str, path: str, *options: str) -> list[str]:
    program = [sys.executable, "-m", "testbed.clients.http", workload, "--connect", "tcp", "--servers"]
    now = time.monotonic()
    times = ["--start-at", str(now + 1.0), "--end-at", str(now + 60)]
    return [*program, "s1=10.0.1.1:80", *times, "--path", path, *options, "--out", str(sandbox.RUN / "out")]


def requests(path: str, think: float) -> list[str]:
    return client("requests", path, "--think", str(think))


def stream() -> list[str]:
    return client("stream", "/big", "--rate", "20", "--segment", "0.5", "--buffer", "2")


SITUATIONS: dict[str, tuple[Callable[[], list[str]], Fault]] = {
    "download": (lambda: DOWNLOAD, nothing),
    "download-cross-traffic": (lambda: DOWNLOAD, cross_traffic),
    "download-cross-tcp": (lambda: DOWNLOAD, cross_tcp),
    "download-starved": (lambda: DOWNLOAD, starved),
    "download-lossy": (lambda: DOWNLOAD, lossy),
    "download-farther": (lambda: DOWNLOAD, farther),
    "slow-reader": (lambda: SLOW_READER, nothing),
    "answered": (lambda: requests("/medium", 60.0), nothing),
    "requests": (lambda: requests("/small", 0.1), nothing),
    "requests-starved": (lambda: requests("/small", 0.1), starved),
    "requests-cross-traffic": (lambda: requests("/small", 0.1), cross_traffic),
    "requests-farther": (lambda: requests("/small", 0.1), farther),
    "stream": (stream, nothing),
    "stream-cross-traffic": (stream, cross_traffic),
    "stream-starved": (stream, starved),
}


def record(name: str) -> None:
    """One situation, in a network of its own."""
    command, fault = SITUATIONS[name]
    views = sandbox.RUN / f"{name}.jsonl"
    with dumbbell.running(bw=100, rtt=20, loss=0) as net:
        net.pool.programs["agent-client"].stop()
        host = net.client
        agent = [sys.executable, __file__, "--agent", views, "--name", host.name, "--cgroup", host.cgroup]
        agent += ["--interface", host.defaultIntf().name, "--policy", "record"]
        with program(host, agent, net.logs / "recording.log") as recording:
            recording.wait_for("ready")
            with program(host, command(), net.logs / "client.log"):
                wait_for(lambda: views.exists() and len(views.read_text().splitlines()) > 20)
                time.sleep(BEFORE)
                at = time.monotonic()
                end = fault(net)
                time.sleep(AFTER)
                if isinstance(end, CrossTraffic):
                    end.finish()
    rows = [json.loads(line) for line in views.read_text().splitlines()]
    frame = pd.DataFrame(rows, columns=[*PLAIN, "rtt_current", "rtt_other"])
    for column in TIMES:
        frame[column] = pd.to_numeric(frame[column]) - at
    frame = frame[frame["now"] <= AFTER].dropna(axis="columns", how="all")
    frame.to_parquet(HERE / f"{name}.parquet", index=False, compression="zstd")
    mean = frame.set_index("now")["received"].diff().fillna(0).groupby(lambda now: now // 1).sum() * 8e-6
    print(name, len(frame), "views, Mbit/s by second:", *mean.round(1), flush=True)


@contextlib.contextmanager
def program(host: Any, command: list[Any], log: Path) -> Iterator[Program]:
    running = Program(host, [str(word) for word in command], log)
    try:
        yield running
    finally:
        running.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "nothing was recorded"
        time.sleep(0.02)


def main() -> int:
    if sys.argv[1:2] == ["--agent"]:
        Recorder.to = Path(sys.argv[2])
        registry._CLIENTS["record"] = Recorder
        return cli.main(["agent", *sys.argv[3:]])
    sandbox.enter()
    for name in sys.argv[1:] or SITUATIONS:
        record(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
