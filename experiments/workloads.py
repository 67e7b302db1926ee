"""What clients do in a soak: unmodified programs, each of which looks at every byte it gets."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.pool import Pool
from topologies.running import HTTP_PORT

PATIENCE = 90.0
"""Seconds for a program to end; then it hangs."""


@dataclass(frozen=True)
class Workload:
    """A strict client (testbed/clients/strict.c) with its stream service, or curl with the file server."""

    name: str
    port: int
    strict: tuple[str, ...] = ()
    """Options and mode."""
    size: int = 0
    """Bytes; with several connections, of each."""
    service: tuple[str, ...] = ()
    """Options of the stream service."""

    def perform(self, host: Any, server: str, program: Path, directory: Path) -> dict[str, Any]:
        """Run it once on the Mininet `host`, from `server`: what it came to.

        `program`: the strict client; `directory`: what the file servers serve.
        """
        if self.strict:
            ok, said = _run(host, [str(program), *self.strict, server, str(self.port), str(self.size)])
            said = _first_error(said)
        else:
            files = ("big", "small", "medium")
            urls = [f"http://{server}/{name}" for name in files]
            ok, said = _run(host, ["curl", "-sS", "--fail", *urls, "-o", "-", "-o", "-", "-o", "-"])
            expected = hashlib.sha256(b"".join((directory / name).read_bytes() for name in files)).hexdigest()
            ok, said = ok and said == expected, "" if said == expected else f"the hash differs: {said}"
        return {"workload": self.name, "host": str(host), "port": self.port, "ok": ok, "said": said}


def _run(host: Any, command: Sequence[str]) -> tuple[bool, str]:
    """Whether it ended well, and its output: of curl the hash, or what it complains of."""
    process = host.popen(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False, f"hangs: not done after {PATIENCE:g} s"
    if command[0] == "curl":
        said = err.decode(errors="replace").strip() or hashlib.sha256(out).hexdigest()
    else:
        said = out.decode().strip() or err.decode(errors="replace").strip()
    return process.returncode == 0, said


def _first_error(said: str) -> str:
    """What the strict client complains of, "" if of nothing."""
    try:
        return str(json.loads(said)["first_error"])
    except ValueError:
        return said


SOAK = (
    Workload("http", HTTP_PORT),
    Workload("upload", 7001, ("-c", "20000", "-i", "5000", "upload"), 12_000_000),
    Workload("exchange", 7002, ("-c", "2000", "-i", "10000", "exchange"), 600_000, ("--asyncio",)),
    Workload("paced", 7003, ("-c", "4000", "-i", "5000", "recv"), 2_400_000),
    Workload("many", 7004, ("-n", "6", "-c", "20000", "-i", "25000", "epoll-et"), 2_400_000, ("--asyncio",)),
    Workload("both-ways", 7005, ("-c", "8000", "-i", "4000", "-e", "200000", "threads"), 6_000_000),
)
"""Some seconds each."""


def chain(migrations: int) -> tuple[Workload, ...]:
    """One connection each, at 8 MB/s, for at least so long as that many moves take."""
    size = 8_000_000 * 3 + 200_000 * migrations
    pace = ("-c", "16000", "-i", "2000")
    return (
        Workload("download", 7001, (*pace, "recv"), size),
        Workload("upload-echo", 7002, (*pace, "threads"), size),
        Workload("slow-exporter", 7003, (*pace, "-e", "600000", "threads"), size),
    )


def serve(pool: Pool, servers: Sequence[Any], workloads: Sequence[Workload]) -> None:
    """Start the services of the workloads that the topology does not have itself."""
    for workload in workloads:
        if workload.strict:
            options = ["--port", str(workload.port), *workload.service]
            pool.serve(servers, "stream", *options, name=f"stream-{workload.name}")
