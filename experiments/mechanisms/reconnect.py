"""The application helps itself: with the same policy, it closes its connection and asks another server for the rest.

That is what the client program does by HTTP Range. Nothing on the servers knows of it, so there is nobody who could
give it hints.
"""

from __future__ import annotations

from experiments.mechanisms.base import Mechanism, serve_files
from experiments.stage import Stage


class Reconnect(Mechanism):
    """See above."""

    name = "reconnect"
    summary = "plain TCP: the application closes, and resumes at another server"
    resumes = True

    def prepare(self, stage: Stage) -> None:
        serve_files(stage)
