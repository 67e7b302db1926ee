"""Topologies' scripts, with commands from a pipe."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(topology: str) -> list[str]:
    """What starts the script of `topology`."""
    return [sys.executable, str(ROOT / "topologies" / f"{topology}.py")]


def piped(topology: str, commands: str, *options: str) -> str:
    """Feed `commands` to the script's prompt; what it prints."""
    run = subprocess.run(
        [*command(topology), *options],
        input=commands,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout
