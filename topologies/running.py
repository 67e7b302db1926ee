"""What the topologies have in common: a network brought up with its agents and services, and the script around it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mininet.topo import Topo

from testbed import doctor, sandbox
from testbed.errors import TestbedError
from testbed.files import make_files
from testbed.network import Network, Prompt
from testbed.nodes import MtcpHost
from testbed.pool import Pool, Server

HTTP_PORT = 80
SERVICE_SWITCH = "sw1"


@dataclass
class Running:
    """A network, up and running."""

    net: Network
    clients: list[MtcpHost]
    servers: list[MtcpHost]
    pool: Pool | None
    """Agents and file servers; None without them."""
    directory: Path
    """What the file servers serve."""
    logs: Path

    @property
    def client(self) -> MtcpHost:
        """The first of the clients."""
        return self.clients[0]

    @property
    def hosts(self) -> list[MtcpHost]:
        return [*self.clients, *self.servers]

    def set_bw(self, bw: float | None) -> None:
        """Change the bandwidth of all service links to `bw` Mbit/s; None: unshaped."""
        for link in self.net.links:
            if self.net[SERVICE_SWITCH] in (link.intf1.node, link.intf2.node):
                link.set_bw(bw)


R = TypeVar("R", bound=Running)


@contextlib.contextmanager
def bring_up(
    kind: type[R],
    topo: Topo,
    clients: Mapping[str, str],
    servers: Sequence[Server],
    *,
    agents: bool = True,
    big: int = 500_000_000,
    logs: Path | None = None,
    sysctls: Mapping[str, str] | None = None,
) -> Iterator[R]:
    """Bring `topo` up, with agents and file servers unless `agents` is false; take it down at the end.

    `clients`: their addresses by name. `big`: bytes of the largest demo file. `logs`: directory for the output
    of the programs (default: one that goes with the sandbox). `sysctls`: for all hosts, beside those of
    testbed.nodes.SYSCTLS and of each host in `topo`. Only in a sandbox. TestbedError when something does not come up.
    """
    logs = logs or sandbox.RUN / "log"
    logs.mkdir(parents=True, exist_ok=True)
    sandbox.name_hosts({**clients, **{server.name: server.service for server in servers}})
    directory = make_files(sandbox.RUN / "files", big)
    common = sysctls or {}
    net = Network(
        topo,
        host=lambda name, sysctls=None, **params: MtcpHost(name, sysctls={**common, **(sysctls or {})}, **params),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(net.stop)
        net.start()
        hosts = [net[name] for name in clients], [net[server.name] for server in servers]
        pool = None
        if agents:
            pool = stack.enter_context(Pool(servers, logs))
            pool.start(*hosts, directory, HTTP_PORT)
        yield kind(net, *hosts, pool, directory, logs)


def parser(description: str) -> argparse.ArgumentParser:
    """The options of every topology's script."""
    options = argparse.ArgumentParser(description=description)
    # Slow enough for a person to type while /big is under way.
    options.add_argument(
        "--bw", type=float, default=100, metavar="MBIT", help="of each service link; 0: unshaped (100)"
    )
    options.add_argument("--no-agents", action="store_true", help="without agents and file servers")
    options.add_argument("--logs", type=Path, metavar="DIR", help="keep the programs' output there")
    return options


def prompt(
    options: argparse.Namespace, start: Callable[[argparse.Namespace], AbstractContextManager[Running]], greeting: str
) -> int:
    """Enter a sandbox, `start` the network there and give Mininet's prompt; the script's exit status.

    `greeting` may have {files} and {logs}.
    """
    sandbox.enter()
    doctor.require("mnexec", "ip", "tc", "ifconfig")
    try:
        with start(options) as network:
            files = ", ".join(f"/{path.name}" for path in sorted(network.directory.iterdir()))
            print(greeting.format(files=files, logs=network.logs), flush=True)
            Prompt(network.net)
    except TestbedError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # before or after the prompt, which has its own use for Ctrl-C
        return 130
    return 0
