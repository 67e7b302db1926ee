"""The examples of docs/examples: how to have them compiled."""

from __future__ import annotations

import subprocess
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
STRICTLY = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")


def compile_counter(program: Path, *flags: str) -> Path:
    """Compile docs/examples/counter.c as `program`, which is returned; every warning is a failure."""
    command = ["gcc", *STRICTLY, *flags, "-pthread", "-o", program, EXAMPLES / "counter.c"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return program
