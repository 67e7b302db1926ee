"""A viewer of a film (testbed.clients.video, which runs ffmpeg), in a trial."""

from __future__ import annotations

import json
import math
import shutil
import sys
from typing import Any

from experiments import measuring
from experiments.stage import END, Stage
from testbed.film import Film
from testbed.processes import PATIENCE, Program

NAME = "film.ts"
OVERTIME = 5.0
"""Seconds after its end in which a film that halted may still come to its end."""


class Viewer:
    """Running, from construction: begins at `clock.start_at`, to see the film of the first server."""

    def __init__(self, stage: Stage, film: Film, buffer: float, *options: str, name: str = "client") -> None:
        """`buffer`: seconds of film. `options`: of ffmpeg's input."""
        self._stage, self._name, self._film = stage, name, film
        network, clock = stage.network, stage.clock
        # A link would lead out of what the servers serve.
        shutil.copyfile(film.path, network.directory / NAME)
        self._directory = stage.run.path(name)
        self._directory.mkdir()
        servers = {each: f"{ip}:{stage.mechanism.port}" for each, ip in network.addresses.items()}
        command = [sys.executable, "-m", "testbed.clients.video", f"http://{next(iter(servers.values()))}/{NAME}"]
        command += ["--frames", str(film.frames), "--size", f"{film.path.stat().st_size}", "--buffer", f"{buffer:g}"]
        command += [
            "--servers",
            ",".join(f"{each}={at}" for each, at in servers.items()),
            "--out",
            str(self._directory),
        ]
        command += ["--start-at", f"{clock.start_at}", "--end-at", f"{clock.end_at + OVERTIME * PATIENCE}"]
        command += [f"--input={word}" for word in options]
        # Not where tcpdump's is.
        self._running = Program(network.client, command, stage.run.path(f"{name}-viewer.log"))

    @property
    def watches(self) -> bool:
        """Whether the film is not over."""
        return self._running.process.poll() is None

    def finish(self) -> dict[str, Any]:
        """Wait for the end of the film; what has been seen of it, which is noted in the run."""
        stage, clock = self._stage, self._stage.clock
        code = self._running.wait_end(OVERTIME + END + math.ceil(clock.end_at - clock.start_at))
        report = self._directory / "client.json"
        if report.exists():
            found: dict[str, Any] = json.loads(report.read_text())
        else:
            last = " | ".join(self._running.output().strip().splitlines()[-3:])
            found = {"exit": code or 1, "error": f"it ended with {code}: {last}", "bytes": 0}
            stage.run.void(f"{self._name} did not tell what it saw: {found['error']}")
        facts = stage.run.metadata["facts"]
        facts.setdefault("clients", {})[self._name] = found
        facts["film"] = {"sha256": self._film.sha256, "bytes": self._film.path.stat().st_size}
        seen = found.get("video", {})
        if seen:
            measuring.note(
                stage,
                decode_errors=seen["decode_errors"],
                network_errors=seen["network_errors"],
                frames_missing=seen["frames"] - seen["frames_right"],
                frames_wrong=seen["frames_wrong"],
            )
        return found
