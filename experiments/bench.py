"""The bench: what migration costs, each figure with its repetitions and, where there is one, its reference beside it.

transfer    200 moves of one 500 MB download: right bytes, and the longest gap
latency     an idle connection without application state: decision to first new byte, by phase
strict      clients that look at every return value, moved all the while
goodput     an unshaped link without moves: M-TCP file server against the same code on plain sockets, in turn
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.handover import SERVERS, Handover, perform
from experiments.recording import recording
from testbed import sandbox
from testbed.errors import TestbedError
from testbed.fidelity import Monitor
from testbed.processes import Program
from testbed.results import Run
from testbed.strict import compile_strict
from topologies.two_servers import ADDRESSES, Running, running

STREAM_PORT = 7001
PLAIN_PORT = 8080
STRICT_MODES = ("recv", "waitall", "timeout", "poll", "select", "epoll", "epoll-et", "upload", "threads")
STRICT_MOVES = 20
STRICT_BYTES = 2_000_000_000
GOODPUT_FILES = 6


def bench(run: Run, repetitions: int, wanted: int, console: Console) -> list[Run]:
    """Measure everything; the parts that are runs of their own, still to be judged."""
    client = compile_strict(sandbox.RUN)
    with running(logs=run.path("logs")) as network, programs(run, network):
        parts = [transfer(run, network, console)]
        network.set_bw(None)
        # Rarely, when the processors' caches are others' each time, and again and again.
        parts.append(latency(run, network, client, "latency", 0.03, wanted, console))
        parts.append(latency(run, network, client, "latency-quick", 0.004, wanted, console))
        with Monitor(run, network.net):
            strict(run, network, client, console)
            goodput(run, network, repetitions, console)
    run.finish("invalid", "not judged yet")
    return parts


@contextmanager
def programs(run: Run, network: Running) -> Iterator[None]:
    """The services that the bench needs beside the topology's own."""
    with ExitStack() as stack:
        for host in (network.s1, network.s2):
            command = [sys.executable, "-m", "testbed.services.stream", "--port", str(STREAM_PORT)]
            program = Program(host, command, run.path(f"logs/stream-{host.name}.log"))
            stack.callback(program.stop)
            program.wait_for("listening")
        command = [sys.executable, "-m", "testbed.services.files", "--plain", "--port", str(PLAIN_PORT)]
        command += ["--directory", str(network.directory)]
        plain = Program(network.s1, command, run.path("logs/plain.log"))
        stack.callback(plain.stop)
        plain.wait_for("listening")
        yield


def transfer(run: Run, network: Running, console: Console) -> Run:
    """The handover experiment, as a part."""
    console.rule("transfer")
    setting = Handover()
    with Run("transfer", scenario="handover", mechanism="mtcp", factors=asdict(setting), results=run.directory) as part:
        perform(part, network, setting, console)
    return part


def latency(run: Run, network: Running, client: Path, name: str, interval: float, wanted: int, console: Console) -> Run:
    """Moves, `interval` seconds apart, of a connection on which 100 bytes come every 2 ms, and whose application
    exports nothing."""
    console.rule(name)
    chunk, every_us = 100, 2000
    total = int((wanted + 30) * (interval + 0.01) / (every_us / 1e6)) * chunk
    pace = ["-c", str(chunk), "-i", str(every_us)]
    command = [str(client), *pace, "recv", ADDRESSES["s1"], str(STREAM_PORT), str(total)]
    factors = {"migrations": wanted, "state": 0, "bw": None, "interval": interval}
    with Run(name, scenario="idle", mechanism="mtcp", factors=factors, results=run.directory) as part:
        with recording(part, network):
            strict_client = network.client.popen(command, stdout=subprocess.PIPE)
            outcomes = move(network, wanted, interval)
            said, _ = strict_client.communicate(timeout=120)
        part.metadata["facts"] |= {
            "client": "strict recv",
            "service_port": STREAM_PORT,
            "client_port": int(outcomes[0]["connection"].rpartition(":")[2]),
            "client_exit": strict_client.returncode,
            "client_said": json.loads(said),
            "bytes": total,
            "every_byte_right": strict_client.returncode == 0,
        }
        part.finish("invalid", "not judged yet")
    return part


def move(network: Running, wanted: int, interval: float) -> list[dict[str, Any]]:
    """Have the client's only connection moved `wanted` times; what the mover said."""
    command = [sys.executable, "-m", "experiments.mover", "--servers", SERVERS]
    command += ["--migrations", str(wanted), "--interval", str(interval)]
    out, _, _ = network.client.pexec(command)
    return [json.loads(line) for line in out.splitlines()]


def strict(run: Run, network: Running, client: Path, console: Console) -> None:
    """Every mode of the strict client, moved while it runs; what each says goes to strict.json."""
    console.rule("strict clients")
    results = {}
    for mode in STRICT_MODES:
        command = [str(client), mode, ADDRESSES["s1"], str(STREAM_PORT), str(STRICT_BYTES)]
        process = network.client.popen(command, stdout=subprocess.PIPE)
        outcomes = move(network, STRICT_MOVES, 0.02)
        said, _ = process.communicate(timeout=120)
        moved = sum(o.get("outcome") == "moved" for o in outcomes)
        results[mode] = json.loads(said) | {"exit": process.returncode, "moved": moved}
        console.print(f"{mode:10} {moved} moves, exit {process.returncode}")
    run.path("strict.json").write_text(json.dumps(results, indent=2))


def goodput(run: Run, network: Running, repetitions: int, console: Console) -> None:
    """Pairs of downloads without a move, one of each kind, in turn, which comes first alternates; to goodput.json."""
    console.rule("goodput")
    speeds: dict[str, list[float]] = {"mtcp": [], "plain": []}
    urls = {"mtcp": "http://s1/big", "plain": f"http://s1:{PLAIN_PORT}/big"}
    for repetition in range(repetitions + 1):
        for kind in ("mtcp", "plain") if repetition % 2 else ("plain", "mtcp"):
            # Several files over one connection: long enough for its set-up not to count.
            command = ["curl", "--silent", "--fail", "--write-out", "%{size_download} %{time_total}\n"]
            for _ in range(GOODPUT_FILES):
                command += ["--output", "/dev/null", urls[kind]]
            out, err, code = network.client.pexec(command)
            if code:
                raise TestbedError(f"curl ended with {code}: {err.strip()}")
            if repetition:  # the first pair warms caches up
                files = [tuple(map(float, line.split())) for line in out.splitlines()]
                speeds[kind].append(sum(size for size, _ in files) * 8 / sum(time for _, time in files) / 1e6)
    run.path("goodput.json").write_text(json.dumps(speeds))
