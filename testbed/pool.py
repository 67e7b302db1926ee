"""A pool of servers: an M-TCP agent on every host, a file server on every server."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from mtcp import pki
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
    more_services: Sequence[str] = ()
    """Its other addresses, of the other version of IP."""


def pool_toml(servers: Sequence[Server]) -> str:
    """The file that tells agents of the pool's servers."""
    return "\n".join(
        f"[[server]]\nname = '{s.name}'\nservice = {[s.service, *s.more_services]}\ncontrol = '{s.control}'\n"
        for s in servers
    )


class Pool:
    """The programs of a pool; a context manager that stops them."""

    def __init__(self, servers: Sequence[Server], logs: Path) -> None:
        """`logs`: directory for the programs' output."""
        self.servers = servers
        self.logs = logs
        self.file = sandbox.RUN / "pool.toml"
        self.credentials = sandbox.RUN / "pool.d"
        """The pool's CA, and the servers' certificates and keys."""
        self.programs: dict[str, Program] = {}
        """By name: agent-<host>, <service>-<host>."""
        self._lives: Counter[str] = Counter()

    def start(
        self,
        clients: Sequence[Any],
        servers: Sequence[Any],
        directory: Path,
        port: int = 80,
        options: Sequence[str | int] = (),
        asking: Sequence[str] = (),
    ) -> None:
        """Start agents on the Mininet hosts, and file servers for `directory` on `servers`; wait for all.

        `options`: more of the file servers (testbed.services.files). `asking`: policies of the servers' agents.
        CommandError, with what it printed, if one does not become ready.
        """
        self.write_files()
        for host in clients:
            self.start_agent(host, wait=False)
        for host in servers:
            self.start_agent(host, *(word for each in asking for word in ("--server-policy", each)), wait=False)
        for host in (*clients, *servers):
            self.programs[f"agent-{host}"].wait_for("ready")
        self.serve(servers, "files", "--port", port, "--directory", directory, *options)

    def write_files(self) -> None:
        """The pool file and the servers' credentials, for `start_agent`; `start` does it itself."""
        self.file.write_text(pool_toml(self.servers))
        pki.initialise(self.credentials, [server.name for server in self.servers])

    def serve(self, servers: Sequence[Any], service: str, *options: str | int | Path, name: str = "") -> None:
        """Start a service of testbed.services on `servers` and wait until it listens; CommandError as of `start`.

        `name`: how its programs are called, if there is more than one of the kind.
        """
        for host in servers:
            command: list[str | Path] = [sys.executable, "-m", f"testbed.services.{service}", *map(str, options)]
            program = f"{name or service}-{host}"
            self.programs[program] = Program(host, command, self.logs / f"{program}.log")
        for host in servers:
            self.programs[f"{name or service}-{host}"].wait_for("listening")

    def start_agent(self, host: Any, *options: str, wait: bool = True) -> Program:
        """Start the agent of `host` (again, if it has been stopped), with more options of `mtcp agent`."""
        mtcp = Path(sys.executable).with_name("mtcp")
        command: list[str | Path] = [mtcp, "agent", "--name", host.name, "--cgroup", host.cgroup]
        if host.name in {server.name for server in self.servers}:
            command += ["--pool", self.pool_file(host.name)]
        command += ["--interface", host.defaultIntf().name, "--pin", sandbox.BPFFS / host.name]
        # In memory: an agent that waits for a disk keeps a connection waiting.
        command += ["--events", EVENTS / f"agent-{host}.jsonl"]
        name, life = f"agent-{host}", self._lives[host.name]
        self._lives[host.name] += 1
        log = self.logs / (f"{name}-{life}.log" if life else f"{name}.log")
        program = Program(host, [*command, *options], log)
        self.programs[name] = program
        if wait:
            program.wait_for("ready")
        return program

    def restart(self, host: Any) -> Program:
        """Start the agent of `host` again, after SIGKILL if it still runs; its output goes to another file."""
        self.programs[f"agent-{host}"].stop(signal.SIGKILL)
        return self.start_agent(host)

    def pool_file(self, name: str) -> Path:
        """The pool's file, as the agent of the server `name` reads it."""
        return self.file

    def stop(self) -> None:
        """Stop all programs: services first."""
        for agents in (False, True):
            programs = [program for name, program in self.programs.items() if name.startswith("agent-") is agents]
            for program in programs:
                with contextlib.suppress(OSError):
                    program.process.terminate()
            for program in programs:
                program.wait_end()
        self.programs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.stop()
