"""A client that looks at every byte and every return value (testbed/clients/strict.c), in a trial."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.stage import END, Stage
from testbed import sandbox
from testbed.processes import PATIENCE, Program
from testbed.strict import compile_strict

PORT = 7001
"""Of the stream service."""


class StrictClient:
    """Running, from construction; connected to the first server's stream service."""

    def __init__(self, stage: Stage, mode: str, size: int, *options: str | int, name: str = "client") -> None:
        """`mode`, `size` (bytes of each connection) and `options` are the program's."""
        self._stage, self._name = stage, name
        server = next(iter(stage.network.addresses.values()))
        command: list[str | Path] = [_program(), *map(str, options), mode, server, str(PORT), str(size)]
        self._running = Program(stage.network.client, command, stage.run.path(f"{name}.out"))

    def finish(self, seconds: float, ports: Iterable[int] = ()) -> dict[str, Any]:
        """Wait up to `seconds` for its end; what it has to say, which is noted in the run as of other clients.

        `ports`: of its connections, if known.
        """
        server = next(iter(self._stage.network.addresses))
        code = self._running.wait_end((seconds + END * PATIENCE) / PATIENCE)
        try:
            said = json.loads(self._running.output())
        except ValueError:
            said = {"first_error": f"it ended with {code}: {self._running.output().strip() or 'it hung'}", "bytes": 0}
        found = {
            "workload": "strict",
            "exit": code,
            "error": said.pop("first_error"),
            "bytes": said.pop("bytes"),
            "every_byte_right": code == 0,
            "connections": [{"server": server, "local_port": port} for port in ports],
            "strict": said,
        }
        directory = self._stage.run.path(self._name)
        directory.mkdir()
        directory.joinpath("client.json").write_text(json.dumps(found, indent=2) + "\n")
        self._stage.run.metadata["facts"].setdefault("clients", {})[self._name] = found
        return found


def _program() -> Path:
    """Compiled once for a sandbox."""
    program = sandbox.RUN / "strict"
    return program if program.exists() else compile_strict(sandbox.RUN)
