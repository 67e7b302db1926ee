"""A client and two servers that can take each other's connections.

         client 10.0.0.100
            |
            | bw
            |
           sw1   service network 10.0.0.0/24
          /    \\
      bw /      \\ bw
        /        \\
  10.0.0.1     10.0.0.2
       s1 ------ s2
  10.1.0.1     10.1.0.2   control network 10.1.0.0/24

Each host runs the M-TCP agent, each server the file server on port 80, with the same files. As a script:

    sudo .venv/bin/python topologies/two_servers.py --bw 10

or, with any other switch, host and link of Mininet: mn --custom topologies/two_servers.py --topo two_servers
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mininet.topo import Topo

from testbed import doctor, sandbox
from testbed.errors import TestbedError
from testbed.files import make_files
from testbed.network import Network, Prompt
from testbed.nodes import MtcpHost
from testbed.pool import Pool, Server

ADDRESSES = {"s1": "10.0.0.1", "s2": "10.0.0.2", "client": "10.0.0.100"}
CONTROL = {"s1": "10.1.0.1", "s2": "10.1.0.2"}
CONTROL_PORT = 7000
HTTP_PORT = 80

GREETING = """
client, s1 and s2 are up. Start a download from s1, see its connection, move it to s2 while it runs:

    client curl -o /dev/null http://s1/big &
    client mtcp ls
    client mtcp migrate --to s2

Files on both servers: {files}.  Logs: {logs}.  Ctrl-D leaves.
"""


class TwoServers(Topo):  # type: ignore[misc, unused-ignore]
    """The network drawn above. `bw`: Mbit/s of each service link and direction; None: unshaped."""

    def build(self, bw: float | None = None, **_params: Any) -> None:
        """Called by Mininet's Topo."""
        switch = self.addSwitch("sw1")
        shape = {} if bw is None else {"bw": float(bw)}
        for name, address in ADDRESSES.items():
            self.addHost(name, ip=f"{address}/24")
            self.addLink(name, switch, **shape)
        control = {f"params{i}": {"ip": f"{CONTROL[name]}/24"} for i, name in ((1, "s1"), (2, "s2"))}
        self.addLink("s1", "s2", **control)


topos = {"two_servers": TwoServers}


@dataclass
class Running:
    """The network, up and running."""

    net: Network
    client: MtcpHost
    s1: MtcpHost
    s2: MtcpHost
    pool: Pool | None
    """Agents and file servers; None without them."""
    directory: Path
    """What the file servers serve."""
    logs: Path

    def set_bw(self, bw: float | None) -> None:
        """Change the bandwidth of all service links to `bw` Mbit/s; None: unshaped."""
        for link in self.net.links:
            if self.net["sw1"] in (link.intf1.node, link.intf2.node):
                link.set_bw(bw)


@contextlib.contextmanager
def running(
    *,
    bw: float | None = None,
    agents: bool = True,
    big: int = 500_000_000,
    logs: Path | None = None,
    sysctls: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Bring the network up, with agents and file servers unless `agents` is false; take it down at the end.

    `bw`: Mbit/s of the service links. `big`: bytes of the largest demo file. `logs`: directory for the output
    of the programs (default: one that goes with the sandbox). `sysctls`: for all hosts, beside those of
    testbed.nodes.SYSCTLS. Only in a sandbox. TestbedError when something does not come up.
    """
    logs = logs or sandbox.RUN / "log"
    logs.mkdir(parents=True, exist_ok=True)
    sandbox.name_hosts(ADDRESSES)
    directory = make_files(sandbox.RUN / "files", big)
    net = Network(TwoServers(bw=bw), host=lambda name, **params: MtcpHost(name, sysctls=sysctls, **params))
    with contextlib.ExitStack() as stack:
        stack.callback(net.stop)
        net.start()
        pool = None
        if agents:
            servers = [Server(name, ADDRESSES[name], f"{CONTROL[name]}:{CONTROL_PORT}") for name in CONTROL]
            pool = stack.enter_context(Pool(servers, logs))
            pool.start(net["client"], [net[name] for name in CONTROL], directory, HTTP_PORT)
        yield Running(net, net["client"], net["s1"], net["s2"], pool, directory, logs)


def main() -> int:
    """Bring the network up and give Mininet's prompt."""
    parser = argparse.ArgumentParser(description="A client and two M-TCP servers, and Mininet's prompt.")
    # Slow enough for a person to type while /big is under way.
    parser.add_argument("--bw", type=float, default=100, metavar="MBIT", help="of each service link; 0: unshaped (100)")
    parser.add_argument("--no-agents", action="store_true", help="without agents and file servers")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep the programs' output there")
    options = parser.parse_args()
    sandbox.enter()
    doctor.require("mnexec", "ip", "tc", "ifconfig")
    try:
        with running(bw=options.bw or None, agents=not options.no_agents, logs=options.logs) as network:
            files = ", ".join(f"/{path.name}" for path in sorted(network.directory.iterdir()))
            print(GREETING.format(files=files, logs=network.logs), flush=True)
            Prompt(network.net)
    except TestbedError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # before or after the prompt, which has its own use for Ctrl-C
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
