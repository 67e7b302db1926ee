"""Plain TCP: the connection stays where it is, whatever happens."""

from __future__ import annotations

from experiments.mechanisms.base import Mechanism, serve_files
from experiments.stage import Stage


class Tcp(Mechanism):
    """See above."""

    name = "tcp"
    summary = "plain TCP: stays, and suffers"

    def prepare(self, stage: Stage) -> None:
        serve_files(stage)
