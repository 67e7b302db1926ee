"""The experiments' client program on a host, for tests."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from testbed.processes import PATIENCE, CommandError, Program, checked

_numbers = itertools.count()


class Client:
    """A client program that is ready, unless it has failed already; its files."""

    def __init__(
        self, host: Any, logs: Path, servers: dict[str, str], *words: object, seconds: float, begin: float = 0.0
    ) -> None:
        """`words`: workload and options. `seconds`: at least so long it works. `begin`: --start-at."""
        self.directory = logs / f"client-{next(_numbers)}"
        self.end_at = time.monotonic() + (seconds + 2.0) * PATIENCE
        command = [sys.executable, "-m", "testbed.clients.http", *map(str, words), "--out", self.directory]
        command += ["--servers", ",".join(f"{name}={address}:80" for name, address in servers.items())]
        command += ["--start-at", f"{begin}", "--end-at", f"{self.end_at}"]
        self.program = Program(host, command, self.directory.with_suffix(".log"))
        with contextlib.suppress(CommandError):  # it has ended already: `wait` sees why
            self.program.wait_for("ready")

    def wait(self) -> dict[str, Any]:
        """Its client.json, at its end; its exit code is that, and its rows are complete."""
        code = self.program.wait_end(60)
        told: dict[str, Any] = json.loads((self.directory / "client.json").read_text())
        assert code == told["exit"], self.program.output()
        assert self.rows("deliveries").bytes.sum() == told["bytes"]
        return told

    def end(self) -> dict[str, Any]:
        """`wait`, now: enough has been seen."""
        self.program.process.terminate()
        return self.wait()

    def rows(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(self.directory / f"{name}.parquet")


def received(host: Any, address: str, end: str = "dst") -> int:
    """Bytes that connections of `host` to `address` have received so far; with "src" as `end`, those from there."""
    words = checked(host, "ss", "-Htin", end, address).split()
    return sum(int(word.partition(":")[2]) for word in words if word.startswith("bytes_received:"))


def eventually(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def sha256(path: Path, size: int) -> str:
    """Of the file's content, over and over, up to `size` bytes."""
    content = path.read_bytes()
    whole, rest = divmod(size, len(content))
    return hashlib.sha256(content * whole + content[:rest]).hexdigest()
