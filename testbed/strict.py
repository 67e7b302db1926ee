"""The strict client (testbed/clients/strict.c): how to have it compiled."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from testbed.errors import TestbedError

SOURCE = Path(__file__).parent / "clients" / "strict.c"
DOWNLOADS = ("recv", "waitall", "timeout", "poll", "select", "epoll", "epoll-et")
"""Modes that download."""
MODES = (*DOWNLOADS, "upload", "threads", "exchange", "turns")


def compile_strict(directory: Path) -> Path:
    """Compile it into `directory`; the program's path. TestbedError when there is no compiler, or it refuses."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise TestbedError("no C compiler: apt-get install gcc libc6-dev")
    program = directory / "strict"
    command = [compiler, "-O2", "-std=c11", "-Wall", "-Wextra", "-pthread", "-o", str(program), str(SOURCE)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise TestbedError(f"{compiler} does not compile {SOURCE}: {run.stderr.strip().splitlines()[0]}")
    return program
