"""An operator who moves the client's connection while a trial goes on."""

from __future__ import annotations

import json
import sys
from typing import Any

from experiments.stage import Stage
from testbed.errors import TestbedError
from testbed.processes import Program


class Operator:
    """A program on the client's host: experiments.mover, or experiments.chain_mover."""

    def __init__(self, stage: Stage, module: str, *options: str | float) -> None:
        command = [sys.executable, "-m", f"experiments.{module}", *map(str, options)]
        self._program = Program(stage.network.client, command, stage.run.path(f"{module}.log"))

    def outcomes(self, seconds: float) -> list[dict[str, Any]]:
        """What has become of each move; TestbedError when they are not done within `seconds`, or one cannot begin."""
        code = self._program.wait_end(seconds)
        lines = self._program.output().strip().splitlines()
        if code:
            raise TestbedError(f"the operator ended with {code}: {lines[-1] if lines else 'it printed nothing'}")
        return [outcome for outcome in map(json.loads, lines) if "outcome" in outcome]


def ports(outcomes: list[dict[str, Any]]) -> list[int]:
    """The client's, of the connection that was moved, if any was."""
    return sorted({int(outcome["connection"].rpartition(":")[2]) for outcome in outcomes})


def to_and_fro(stage: Stage, moves: int, interval: float) -> Operator:
    """Begin to move the connection to each server in turn, `interval` seconds from one move to the next."""
    servers = ",".join(f"{name}={ip}" for name, ip in stage.network.addresses.items())
    return Operator(stage, "mover", "--servers", servers, "--migrations", moves, "--interval", interval)


def on_and_on(stage: Stage, moves: int) -> Operator:
    """Begin to move the connection to some other server each time, the instant the last move has committed."""
    return Operator(stage, "chain_mover", "--migrations", moves, "--seed", stage.trial.seed)
