"""The handover: one download by an unmodified client moves S1 -> S2 -> S1 …, captured at all three hosts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.recording import recording
from testbed import sandbox, selftest
from testbed.results import Run
from topologies.two_servers import HTTP_PORT, Running

SERVERS = "s1=10.0.0.1,s2=10.0.0.2"
PATIENCE = 120
"""Seconds for the client to end after the last move."""


@dataclass(frozen=True)
class Handover:
    """What is varied."""

    migrations: int = 200
    size: int = 500_000_000
    """Bytes of the download."""
    bw: float | None = 500.0
    """Mbit/s of each link; None: unshaped."""


def perform(run: Run, network: Running, setting: Handover, console: Console) -> None:
    """Carry the scenario out and leave facts, events and captures in the run's directory."""
    run.sysctls({host.name: host.sysctls for host in (network.client, network.s1, network.s2)})
    run.limits({host.name: host.limits for host in (network.client, network.s1, network.s2)})
    network.set_bw(setting.bw)
    selftest.check(network.net, run)
    with recording(run, network):
        received = download(network, setting, console)
    run.metadata["facts"] |= received
    run.finish("invalid", "not judged yet")


def download(network: Running, setting: Handover, console: Console) -> dict[str, Any]:
    """curl downloads while the mover moves; the facts that the captures cannot tell."""
    target = sandbox.RUN / "download"
    target.unlink(missing_ok=True)
    curl = network.client.popen(
        ["curl", "--silent", "--show-error", "--fail", "--output", str(target), "http://s1/big"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    moves_wanted = ["--migrations", str(setting.migrations), "--file", str(target), "--size", str(setting.size)]
    mover = network.client.popen(
        [sys.executable, "-m", "experiments.mover", "--servers", SERVERS, *moves_wanted],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    connection = _follow(mover, setting.migrations, console)
    errors = mover.stderr.read().decode().strip()
    if mover.wait() or errors:
        console.print(f"[red]{errors}[/]")
    try:
        said, _ = curl.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        curl.kill()
        said, _ = curl.communicate()
    if curl.returncode:
        console.print(f"[red]curl ended with {curl.returncode}: {said.decode().strip()}[/]")
    return {
        "service_port": HTTP_PORT,
        "client": "curl",
        "client_port": int(connection.rpartition(":")[2] or 0),
        "client_exit": curl.returncode,
        "client_said": said.decode().strip(),
        "bytes": target.stat().st_size if target.exists() else 0,
        "expected_sha256": sha256(network.directory / "big"),
        "received_sha256": sha256(target) if target.exists() else "",
    }


def _follow(mover: subprocess.Popen[bytes], migrations: int, console: Console) -> str:
    """Show the mover's progress until it ends; the client's end of the connection, or ""."""
    connection = ""
    columns = (
        TextColumn("[bold]moves"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("moves", total=migrations, last="")
        assert mover.stdout is not None
        for line in mover.stdout:
            outcome = json.loads(line)
            connection = outcome["connection"]
            if "outcome" in outcome:
                progress.update(task, advance=1, last=f"{outcome['from']} -> {outcome['to']}: {outcome['outcome']}")
    return connection


def sha256(path: Path) -> str:
    """The file's hash, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
