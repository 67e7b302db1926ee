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
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from analysis import report, statistics, verdict
from experiments.handover import SERVERS, Handover, captured, copy_events, perform
from testbed import sandbox
from testbed.errors import TestbedError
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


def bench(repetitions: int, wanted: int, console: Console) -> tuple[dict[str, Any], Path]:
    """Measure everything; the figures of summary.json and the directory they are in."""
    factors = {"repetitions": repetitions, "moves": wanted}
    with Run("bench", scenario="bench", mechanism="mtcp", factors=factors) as run:
        client = compile_strict(sandbox.RUN)
        with running(logs=run.path("logs")) as network, programs(run, network):
            figures = transfer(run, network, Handover(), console)
            network.set_bw(None)
            figures |= latencies(run, network, client, wanted, console)
            figures |= strict(network, client, console)
            figures |= goodput(run, network, repetitions, console)
        clean = figures["strict_violations"] == 0 and figures["interrupted_calls"] == 0
        if figures["verdict"] == "succeeded" and not clean:
            figures |= {"verdict": "failed", "reason": "a strict client saw what it never should; see strict.json"}
        run.summary(figures)
        run.finish(figures["verdict"], figures["reason"])
    return figures, run.directory


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


def transfer(run: Run, network: Running, setting: Handover, console: Console) -> dict[str, Any]:
    """The handover experiment, as a part."""
    console.rule("transfer")
    factors = {"migrations": setting.migrations, "size": setting.size, "bw": setting.bw}
    with Run("transfer", scenario="handover", mechanism="mtcp", factors=factors, results=run.directory) as part:
        perform(part, network, setting, console)
        part.finish("invalid", "not judged yet")
        figures = report.write(part.directory).figures
        part.finish(figures["verdict"], figures["reason"])
    keys = ("verdict", "reason", "migrations", "hash_ok", "client_errors", "resets", "handshakes", "max_gap_ms")
    return {key: figures[key] for key in keys} | {"transfer_goodput_mbps": figures["goodput_mbps"]}


def latency(
    run: Run, network: Running, client: Path, name: str, interval: float, wanted: int, console: Console
) -> verdict.Examination:
    """Moves, `interval` seconds apart, of a connection on which 100 bytes come every 2 ms, and whose application
    exports nothing."""
    console.rule(name)
    chunk, every_us = 100, 2000
    total = int((wanted + 30) * (interval + 0.01) / (every_us / 1e6)) * chunk
    command = [
        str(client),
        "-c",
        str(chunk),
        "-i",
        str(every_us),
        "recv",
        ADDRESSES["s1"],
        str(STREAM_PORT),
        str(total),
    ]
    factors = {"migrations": wanted, "state": 0, "bw": None, "interval": interval}
    with Run(name, scenario="idle", mechanism="mtcp", factors=factors, results=run.directory) as part:
        begun = time.monotonic_ns()
        with captured(part, network):
            strict_client = network.client.popen(command, stdout=subprocess.PIPE)
            outcomes = move(network, wanted, interval)
            said, _ = strict_client.communicate(timeout=120)
        copy_events(part, network, begun)
        right = strict_client.returncode == 0
        part.metadata["facts"] |= {
            "client": "strict recv, which checks every byte",
            "service_port": STREAM_PORT,
            "client_port": int(outcomes[0]["connection"].rpartition(":")[2]),
            "client_exit": strict_client.returncode,
            "client_said": json.loads(said),
            "bytes": total,
            "expected_sha256": "pattern",
            "received_sha256": "pattern" if right else "",
        }
        part.finish("invalid", "not judged yet")
        found = verdict.examine(part.directory)
        part.finish(found.verdict.verdict, found.verdict.reason)
        report.write(part.directory)
    return found


def latencies(run: Run, network: Running, client: Path, wanted: int, console: Console) -> dict[str, Any]:
    """Decision to first new byte: rarely, when the processors' caches are others', and again and again."""
    rare = latency(run, network, client, "latency", 0.03, wanted, console)
    quick = latency(run, network, client, "latency-quick", 0.004, wanted, console)
    phases = pd.DataFrame(list(rare.moves["phases"]))
    return {
        "latency_verdict": rare.verdict.verdict,
        "first_byte_ms_median": rare.verdict.figures["first_byte_ms_median"],
        "idle_stall_ms_median": rare.verdict.figures["stall_ms_median"],
        "phases_ms_median": {name: statistics.median(phases[name]).as_dict() for name in phases},
        "latency_quick_verdict": quick.verdict.verdict,
        "first_byte_quick_ms_median": quick.verdict.figures["first_byte_ms_median"],
    }


def move(network: Running, wanted: int, interval: float) -> list[dict[str, Any]]:
    """Have the client's only connection moved `wanted` times; what the mover said."""
    command = [sys.executable, "-m", "experiments.mover", "--servers", SERVERS]
    command += ["--migrations", str(wanted), "--interval", str(interval)]
    out, _, _ = network.client.pexec(command)
    return [json.loads(line) for line in out.splitlines()]


def strict(network: Running, client: Path, console: Console) -> dict[str, Any]:
    """Every mode of the strict client, moved while it runs."""
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
    return {
        "strict_modes": results,
        "strict_migrations": sum(r["moved"] for r in results.values()),
        "interrupted_calls": sum(r["interrupted"] + r["short_counts"] + r["error_events"] for r in results.values()),
        "strict_violations": sum(r["exit"] != 0 for r in results.values()),
    }


def goodput(run: Run, network: Running, repetitions: int, console: Console) -> dict[str, Any]:
    """Pairs of downloads without a move, one of each kind, in turn; which comes first alternates."""
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
    ratio = statistics.ratio(speeds["mtcp"], speeds["plain"])
    run.path("goodput.json").write_text(json.dumps(speeds))
    return {
        "goodput_ratio": ratio.as_dict(),
        "goodput_mtcp_mbps": statistics.median(speeds["mtcp"]).as_dict(),
        "goodput_plain_mbps": statistics.median(speeds["plain"]).as_dict(),
    }
