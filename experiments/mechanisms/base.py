"""What a mechanism is: what servers run, how clients connect, and who has the policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mtcp.policy import SERVER_NAMES

if TYPE_CHECKING:
    from experiments.plan import Trial
    from experiments.stage import Stage


class Mechanism:
    """One way to keep a client served when its server, or the path to it, does not do well any more."""

    name: ClassVar[str]
    summary: ClassVar[str]
    connect: ClassVar[str] = "tcp"
    """What clients open: see testbed.clients.http."""
    port: ClassVar[int] = 80
    agents: ClassVar[bool] = False
    """Whether hosts run M-TCP agents."""
    resumes: ClassVar[bool] = False
    """Whether the client program itself has the policy, and goes on at another server."""
    sysctls: ClassVar[Mapping[str, str]] = {}
    """Of all hosts."""
    capture: ClassVar[str] = "tcp"
    """The packets that its runs capture, as tcpdump's filter."""

    def unsupported(self, trial: Trial) -> str:
        """Why it cannot do the trial at all, whatever the scenario, or ""."""
        if self.resumes and trial.policy.partition(":")[0] in ("hints", *SERVER_NAMES):
            return "servers have no means to ask their clients to leave"
        return ""

    def settings(self, trial: Trial) -> dict[str, Any]:
        """Of topologies.running.bring_up."""
        return {"agents": self.agents, "sysctls": self.sysctls}

    def prepare(self, stage: Stage) -> None:
        """Start on the servers what clients need; before the captures."""

    def set_policy(self, stage: Stage) -> None:
        """Tell whoever has the policy which one it is; the clock is set, clients have not begun."""

    def client_options(self, stage: Stage) -> list[str]:
        """More options of the client program."""
        return []


def serve_files(stage: Stage, *options: str | int) -> None:
    """Start file servers without M-TCP on the servers, with more options of testbed.services.files."""
    network, plain = stage.network, ("--plain", "--port", 80)
    options = *stage.files, *options
    network.pool.serve(network.servers, "files", *plain, "--directory", network.directory, *options)
