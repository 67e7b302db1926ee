"""A pool of servers: an M-TCP agent on every host, a file server on every server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from testbed import sandbox
from testbed.processes import Program

EVENTS = sandbox.RUN
"""Where the agents' event logs are: agent-<host>.jsonl."""


class Server(NamedTuple):
    """A server of the pool."""

    name: str
    service: str
    """IP address that clients connect to."""
    control: str
    """ADDRESS:PORT where its agent listens for those of the other servers."""


def pool_toml(servers: Sequence[Server]) -> str:
    """The file that tells agents of the pool's servers."""
    return "\n".join(
        f'[[server]]\nname = "{name}"\nservice = "{service}"\ncontrol = "{control}"\n'
        for name, service, control in servers
    )


class Pool:
    """The programs of a pool; a context manager that stops them."""

    def __init__(self, servers: Sequence[Server], logs: Path) -> None:
        """`logs`: directory for the programs' output."""
        self.servers = servers
        self.logs = logs
        self.file = sandbox.RUN / "pool.toml"
        self.programs: dict[str, Program] = {}
        """By name: agent-<host>, files-<host>."""

    def start(self, client: Any, servers: Sequence[Any], directory: Path, port: int = 80) -> None:
        """Start agents on the Mininet hosts, and file servers for `directory` on `servers`; wait for all.

        CommandError, with what it printed, if one does not become ready.
        """
        self.file.write_text(pool_toml(self.servers))
        for host in (client, *servers):
            self.start_agent(host, wait=False)
        self._wait("ready")
        for host in servers:
            command: list[str | Path] = [sys.executable, "-m", "testbed.services.files"]
            command += ["--port", str(port), "--directory", directory]
            self.programs[f"files-{host}"] = Program(host, command, self.logs / f"files-{host}.log")
        self._wait("listening")

    def start_agent(self, host: Any, wait: bool = True) -> Program:
        """Start the agent of `host` (again, if it has been stopped)."""
        mtcp = Path(sys.executable).with_name("mtcp")
        command: list[str | Path] = [mtcp, "agent", "--name", host.name, "--cgroup", host.cgroup]
        if host.name in {server.name for server in self.servers}:
            command += ["--pool", self.file]
        command += ["--interface", host.defaultIntf().name, "--pin", sandbox.BPFFS / host.name]
        # In memory: an agent that waits for a disk keeps a connection waiting.
        command += ["--events", EVENTS / f"agent-{host}.jsonl"]
        program = Program(host, command, self.logs / f"agent-{host}.log")
        self.programs[f"agent-{host}"] = program
        if wait:
            program.wait_for("ready")
        return program

    def _wait(self, line: str) -> None:
        kind = {"ready": "agent-", "listening": "files-"}[line]
        for name, program in self.programs.items():
            if name.startswith(kind):
                program.wait_for(line)

    def stop(self) -> None:
        """Stop all programs: file servers first."""
        for name in sorted(self.programs, reverse=True):
            with contextlib.suppress(OSError):
                self.programs[name].stop()
        self.programs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.stop()
