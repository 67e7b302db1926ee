"""tshark with our dissector."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

LUA = Path(__file__).parents[1] / "mtcp" / "dissect" / "mtcp.lua"
AGGREGATOR = ","


def rows(pcap: Path, fields: Sequence[str], *options: str, only: str = "mtcp") -> list[dict[str, list[str]]]:
    """Of each packet that the display filter `only` lets through, the fields that it has, and their values."""
    shown = [word for field in fields for word in ("-e", field)]
    how = ["-T", "fields", "-E", "occurrence=a", "-E", f"aggregator={AGGREGATOR}", *shown]
    command = ["tshark", "-n", "-X", f"lua_script:{LUA}", "-r", str(pcap), *options, "-Y", only, *how]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "Lua" not in run.stderr, run.stderr
    lines = [line.split("\t") for line in run.stdout.splitlines()]
    return [{name: text.split(AGGREGATOR) for name, text in zip(fields, line, strict=True) if text} for line in lines]
