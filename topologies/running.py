"""What the topologies have in common: a network brought up with its agents and services, and the script around it."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from mininet.node import Switch

from testbed import doctor, sandbox, units
from testbed.errors import TestbedError
from testbed.files import make_files
from testbed.links import LinkError
from testbed.network import Network
from testbed.nodes import BridgeSwitch, MtcpHost
from testbed.pool import Pool
from testbed.prompt import Prompt, emulated
from topologies.building import ServiceTopo

HTTP_PORT = 80
SERVICE_SWITCH = "sw1"
SETTINGS = ("agents", "big", "files", "asking", "logs", "sysctls", "emulation", "switch")
"""Parameters of bring_up; all others are the topology's."""

GREETING = """
{hosts} are up. {emulated}
"""
TO_MOVE = """
Start a download from s1, see its connection, move it to s2 while it runs:

    client curl -o /dev/null http://s1/big &
    client mtcp ls
    client mtcp migrate --to s2
"""
FAREWELL = """
`links` shows what links do; `set {link} delay=20ms loss=1%` changes it, for links with a delay, as --rtt makes them.
Files on all servers: {files}.  Logs: {logs}.  Ctrl-D leaves.
"""


@dataclass
class Running:
    """A network, up and running."""

    net: Network
    clients: list[MtcpHost]
    servers: list[MtcpHost]
    others: list[MtcpHost]
    """Hosts without agents."""
    pool: Pool
    """What runs on the hosts."""
    agents: bool
    """Whether that is agents and file servers; else nothing yet."""
    directory: Path
    """What the file servers serve."""
    logs: Path

    @property
    def client(self) -> MtcpHost:
        """The first of the clients."""
        return self.clients[0]

    @property
    def addresses(self) -> dict[str, str]:
        """Of the servers, by name."""
        return {server.name: server.service for server in self.net.topo.pool}

    @property
    def client_address(self) -> str:
        """Of the first of the clients."""
        return str(self.net.topo.clients[self.client.name])

    @property
    def hosts(self) -> list[MtcpHost]:
        return [*self.clients, *self.servers, *self.others]

    def begin(self) -> None:
        """Start what belongs to the topology beside agents and file servers."""

    def set(self, node1: str, node2: str, *, one_way: bool = False, **conditions: Any) -> None:
        """Change the link of two nodes, under traffic: bw, delay, jitter, loss, queue as of EmulatedLink.set.

        `one_way`: only what `node1` sends. LinkError when there is no such link, or it cannot be like that.
        """
        self.net.set_link(node1, node2, conditions, one_way=one_way)

    def set_bw(self, bw: float | None) -> None:
        """Change the bandwidth of all service links to `bw` Mbit/s; None: unlimited."""
        for node1, node2 in self.net.topo.service_links:
            self.set(node1, node2, bw=bw)


R = TypeVar("R", bound=Running)


def running(topo: type[ServiceTopo], kind: type[R], **options: Any) -> AbstractContextManager[R]:
    """Bring a `topo` up; take it down at the end.

    `options`: parameters of `topo.build`, among them mostly bw (Mbit/s), rtt, jitter (ms), loss (percent) and queue
    (packets), as numbers or such as "40ms" (topologies.building.conditions; the drawing says where they are in force);
    and settings of `bring_up`. Bandwidths can be changed later; delays, jitter and losses where one of rtt, jitter and
    loss is given, which may be 0. TestbedError when something does not come up.
    """
    settings = {name: options.pop(name) for name in SETTINGS if name in options}
    if options.get("bw") is None:
        options["bw"] = math.inf
    return bring_up(topo(**options), kind, **settings)


@contextlib.contextmanager
def bring_up(
    topo: ServiceTopo,
    kind: type[R],
    *,
    agents: bool = True,
    big: int = 500_000_000,
    files: Sequence[str | int] = (),
    asking: Sequence[str] = (),
    logs: Path | None = None,
    sysctls: Mapping[str, str] | None = None,
    emulation: str | None = None,
    switch: Callable[..., Switch] = BridgeSwitch,
) -> Iterator[R]:
    """Bring `topo` up, with agents and file servers unless `agents` is false; take it down at the end.

    `big`: bytes of the largest demo file. `files`: more options of the file servers. `asking`: the servers' policies,
    as of `mtcp agent --server-policy`. `logs`: directory for the output of the programs (default: one that goes with
    the sandbox). `sysctls`: for all hosts, beside those of testbed.nodes.SYSCTLS and of each host in `topo`.
    `emulation`: "netem", "delay-line", None: what there is. `switch`: another class of Mininet's, such as OVSBridge.
    Only in a sandbox. TestbedError when something does not come up.
    """
    logs = logs or sandbox.RUN / "log"
    logs.mkdir(parents=True, exist_ok=True)
    services = {server.name: server.service for server in topo.pool}
    sandbox.name_hosts({**topo.clients, **services, **topo.others})
    directory = make_files(sandbox.RUN / "files", big)
    common = sysctls or {}
    net = Network(
        topo,
        emulation=emulation,
        switch=switch,
        host=lambda name, sysctls=None, **params: MtcpHost(name, sysctls={**common, **(sysctls or {})}, **params),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(net.stop)
        net.start()
        clients, servers, others = ([net[name] for name in names] for names in (topo.clients, services, topo.others))
        pool = stack.enter_context(Pool(topo.pool, logs))
        if agents:
            pool.start(clients, servers, directory, HTTP_PORT, files, asking)
        network = kind(net, clients, servers, others, pool, agents, directory, logs)
        network.begin()
        yield network


class Parser(argparse.ArgumentParser):
    """The options of every topology's script. What is wrong is one line, and exit code 2."""

    def __init__(self, description: str, rtt: str = "none") -> None:
        """`rtt`: the default, in words."""
        super().__init__(description=description)
        # Slow enough for a person to type while /big is under way.
        self.add_argument(
            "--bw", type=_bandwidth, default=100.0, metavar="RATE", help="of each service link, 0: unlimited (100mbit)"
        )
        times = unit(units.milliseconds)
        self.add_argument(
            "--rtt", type=times, metavar="TIME", help=f"round-trip time between client and server ({rtt})"
        )
        self.add_argument("--jitter", type=times, metavar="TIME", help="the one-way delay is so much longer or shorter")
        self.add_argument(
            "--loss", type=unit(units.percent), metavar="SHARE", help="of packets each way, such as 0.1%%"
        )
        self.add_argument("--queue", type=count(1_000_000), metavar="PACKETS", help="that a bottleneck holds (250)")
        self.add_argument(
            "--emulation", choices=("netem", "delay-line", "auto"), default="auto", help="of delay and loss (auto)"
        )
        self.add_argument(
            "--big", type=count(10**11), default=500_000_000, metavar="BYTES", help="of the largest file (500000000)"
        )
        self.add_argument("--no-agents", action="store_true", help="without agents and file servers")
        self.add_argument("--logs", type=Path, metavar="DIR", help="keep the programs' output there")

    def error(self, message: str) -> NoReturn:
        """End with `message`."""
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


def unit(convert: Callable[[str], float]) -> Callable[[str], float]:
    """`convert`, of testbed.units, as a type of options."""

    def converted(text: str) -> float:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


def count(most: int) -> Callable[[str], int]:
    """A type of options: a number from 1 to `most`."""

    def counted(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between 1 and {most}")
        return int(text)

    return counted


def _bandwidth(text: str) -> float:
    return unit(units.mbit)(text) or math.inf


def script(topology: type[ServiceTopo], parser: Parser, greeting: str = "", kind: type[Running] = Running) -> int:
    """Read the command line, enter a sandbox, bring the network up there and give Mininet's prompt; the exit status.

    Options are SETTINGS and parameters of `topology`, by the same names. `greeting`: more of it.
    """
    options = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    settings = {name: options.pop(name) for name in SETTINGS if name in options}
    settings["agents"] = not options.pop("no_agents")
    try:
        topo = topology(**options)
    except (LinkError, ValueError) as error:
        parser.error(str(error))
    if settings["emulation"] == "auto":
        settings["emulation"] = None
    try:
        sandbox.enter()
        doctor.require("mnexec", "ip", "tc", "ifconfig", "ethtool")
        with bring_up(topo, kind, **settings) as network:
            print(_greeting(network, TO_MOVE + greeting if network.agents else ""), flush=True)
            Prompt(network.net)
    except TestbedError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # before or after the prompt, which has its own use for Ctrl-C
        return 130
    return 0


def _greeting(network: Running, what_to_do: str) -> str:
    *names, last = (host.name for host in network.hosts)
    text = GREETING.format(hosts=f"{', '.join(names)} and {last}", emulated=emulated(network.net))
    files = ", ".join(f"/{path.name}" for path in sorted(network.directory.iterdir()))
    link = next((ends for ends in network.net.topo.service_links if "client" in ends), ("sw1", "sw2"))
    return text + what_to_do + FAREWELL.format(link=" ".join(link), files=files, logs=network.logs)
