"""Commands and long-running programs on Mininet nodes; nothing fails silently."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from testbed.errors import TestbedError

PATIENCE = float(os.environ.get("MTCP_PATIENCE", "1"))
"""How many times as long as usual programs may take on this machine: it may be emulated."""


class CommandError(TestbedError):
    """A command on a node failed; the message holds the command and what it printed."""


def checked(node: Any, *command: str) -> str:
    """Run `command` on the Mininet `node` and return its output; CommandError when it fails."""
    out, err, code = node.pexec(list(command))
    if code != 0:
        raise CommandError(f"{node}: {' '.join(command)}: {(err or out).strip() or f'exit code {code}'}")
    return str(out)


class Program:
    """A program that runs on a host until it is stopped, with its output in a file."""

    def __init__(self, host: Any, command: Sequence[str | Path], log: Path, *, beside: bool = False) -> None:
        """Start `command` on the Mininet `host`; standard output and error go to `log`.

        `beside`: in the host's namespaces but not in its control group. What observes a host is no load of it, and
        is not slowed down with it.
        """
        self.name = f"{Path(command[0]).name} on {host}"
        self.log = log
        start = partial(_popen_beside, host) if beside else host.popen
        with log.open("wb") as output:
            self.process: subprocess.Popen[bytes] = start(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, text: str, timeout: float = 20.0) -> None:
        """Wait until a line of the output starts with `text`.

        CommandError, with the end of the output, when the program ends or `timeout` seconds, times PATIENCE, pass
        before.
        """
        timeout *= PATIENCE
        deadline = time.monotonic() + timeout
        while True:
            ended = self.process.poll() is not None  # before reading: what it printed last counts
            output = self.output()
            if any(line.startswith(text) for line in output.splitlines()):
                return
            if ended or time.monotonic() > deadline:
                what = f"ended with code {self.process.returncode}" if ended else f"is not ready after {timeout:g} s"
                last = " | ".join(output.strip().splitlines()[-5:]) or "it printed nothing"
                raise CommandError(f"{self.name} {what}: {last}")
            time.sleep(0.01)

    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 5.0) -> int:
        """End it with signal `number`, after `timeout` seconds with SIGKILL; return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.wait_end(timeout)

    def wait_end(self, timeout: float = 5.0) -> int:
        """Wait until it ends, after `timeout` seconds by SIGKILL; return its exit code."""
        try:
            return self.process.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _popen_beside(node: Any, command: list[str], **params: Any) -> subprocess.Popen[bytes]:
    # A user's PATH may lack tcpdump's directory.
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}
    return subprocess.Popen(["mnexec", "-da", str(node.pid), *command], env=environment, **params)
