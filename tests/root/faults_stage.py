"""A client and two servers with somebody in the middle of the client's link and of the control network."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from analysis import capture
from mtcp.agent import local
from mtcp.errors import MtcpError
from testbed.namespaces import enter_network_of
from testbed.pool import Server
from testbed.processes import Program, checked
from tests.root.faults_paths import Faults
from tests.root.faults_proxy import ProxiedPool
from tests.root.faults_wire import Wire, wired
from tests.root.scene import SERVERS, ClientProgram, Outcome, Scene
from topologies.two_servers import ADDRESSES, CONTROL, CONTROL_PORT, running

STREAM, COUNTER = 7001, 7002
CLIENT = Path(__file__).parents[1] / "clients" / "conversing.py"
AT_ONCE = 200
"""Requests to the client's agent at a time."""
KINDS = ("download", "conversation")
MEASURED = os.environ.get("MTCP_TEST_FIGURES")
"""File to which the outcome of each connection is appended, as a JSON line."""
LET_GO = 5.0
"""Seconds within which a server whose connection has left knows it, when nothing is in the way any more."""
GOES_ON = 20.0
"""Seconds after which a connection whose data stopped is called hung."""


@dataclass
class Guest:
    """One connection of the client: what was asked for, what is known of it."""

    port: int
    kind: str
    patience: float = 0.0
    """Seconds after which the client's kernel gives up a silent server; 0: as kernels do, a quarter of an hour."""
    first: Outcome | str | None = None
    """The agent's answer to the request to move, or its refusal."""
    second: Outcome | str | None = None
    """As `first`, when the fault is over."""
    report: dict[str, Any] = field(default_factory=dict)
    """The client program's."""
    faults: list[str] = field(default_factory=list)
    """What was seen to go wrong."""

    @property
    def name(self) -> str:
        return f"{ADDRESSES['client']}:{self.port}"


class Stage:
    """The scene, and the means to do harm in it."""

    def __init__(self, scene: Scene, pool: ProxiedPool, wire: Wire, faults: Faults, commands: ThreadPoolExecutor):
        self.scene, self.pool, self.wire, self.faults = scene, pool, wire, faults
        self.commands = commands
        """Threads in the client's network."""
        self.asks_s1 = ThreadPoolExecutor(1, initializer=enter_network_of, initargs=(scene.net.s1.pid,))
        self.away = 0.0
        """Seconds for which the present deed took an agent away."""
        self._ports = count(20000)

    @classmethod
    @contextlib.contextmanager
    def set_up(cls, directory: Path) -> Iterator[Stage]:
        faults = Faults()
        with contextlib.ExitStack() as stack:
            net = stack.enter_context(running(agents=False, logs=directory))
            for host in (net.s1, net.s2, net.client):
                host.set_sysctls({"net.ipv4.ip_local_port_range": "40000 60000"})
            port = next(link for link in net.net.links if net.client in (link.intf1.node, link.intf2.node))
            end = next(i for i in (port.intf1, port.intf2) if i.node is not net.client)
            wire = stack.enter_context(wired(end.node, end.name, faults.meet))
            servers = [Server(name, ADDRESSES[name], f"{CONTROL[name]}:{CONTROL_PORT}") for name in CONTROL]
            pool = stack.enter_context(ProxiedPool(servers, [net.s1, net.s2], directory, faults.meet))
            pool.start([net.client], [net.s1, net.s2], net.directory)
            scene = stack.enter_context(Scene.of(net, directory))
            pool.serve([net.s1, net.s2], "stream", "--port", STREAM)
            pool.serve([net.s1, net.s2], "counter", "--port", COUNTER)
            commands = ThreadPoolExecutor(AT_ONCE, initializer=enter_network_of, initargs=(net.client.pid,))
            yield cls(scene, pool, wire, faults, commands)

    def applications(self, host: str) -> list[Program]:
        """The server's, as far as tests use them."""
        return [self.pool.programs[f"{service}-{host}"] for service in ("stream", "counter")]

    def restart_applications(self, host: Any) -> None:
        """Start them again, after they were killed."""
        self.pool.serve([host], "stream", "--port", STREAM)
        self.pool.serve([host], "counter", "--port", COUNTER)

    def guests(self, number: int) -> list[Guest]:
        """For connections that are not open yet: half downloads, half conversations."""
        return [Guest(next(self._ports), KINDS[i % 2]) for i in range(number)]

    @contextlib.contextmanager
    def visit(self, name: str, guests: Sequence[Guest]) -> Iterator[Visit]:
        """All `guests` connected under capture; afterwards their reports and what the captures say."""
        with self.scene.watched(name):
            program = self.scene.client(sys.executable, CLIENT, SERVERS[0], str(STREAM), str(COUNTER))
            assert program.line() == "ready"
            visit = Visit(self, program, guests)
            for guest in guests:
                program.tell(f"{guest.kind} {guest.port} {guest.patience}")
            yield visit
            visit.end()
        self.faults.rules.clear()


class Visit:
    """A client program with many connections."""

    def __init__(self, stage: Stage, program: ClientProgram, guests: Sequence[Guest]) -> None:
        self._stage, self._program, self.guests = stage, program, guests
        self.second_at_ns = 0
        self.closing_ns = 0

    def ask(self, message: dict[str, Any]) -> Future[Outcome]:
        return self._stage.commands.submit(local.request, message)

    def rows(self) -> dict[int, dict[str, Any]]:
        """The client's agent's connections by local port."""
        rows = self.ask({"op": "ls"}).result(30)["connections"]
        return {int(row["connection"].split(":")[1]): row for row in rows}

    def wait_until(self, what: str, condition: Callable[[], Sequence[Guest]], seconds: float) -> bool:
        """Wait until `condition` names no guest; those that it names at the end have a fault more."""
        until = time.monotonic() + seconds
        while left := condition():
            if time.monotonic() > until:
                for guest in left:
                    guest.faults.append(f"{what}: not within {seconds:g} s")
                return False
            time.sleep(0.05)
        return True

    def wait_known(self, guests: Sequence[Guest]) -> None:
        """Wait until the client's agent knows where they may go."""

        def unknown() -> list[Guest]:
            rows = self.rows()
            return [g for g in guests if not (g.port in rows and rows[g.port]["others"])]

        self.wait_until("known to the agent, with other servers", unknown, 10)

    def progress(self) -> dict[int, int]:
        self._program.tell("progress")
        return {int(port): n for port, n in json.loads(self._program.line()).items()}

    def failed(self, guest: Guest) -> bool:
        """Whether the client has seen an error."""
        self._program.tell("errors")
        return bool(json.loads(self._program.line())[str(guest.port)])

    def wait_progress(self, guests: Sequence[Guest], seconds: float = GOES_ON) -> None:
        """Wait until each has received more than now."""
        before = self.progress()

        def stuck() -> list[Guest]:
            now = self.progress()
            return [g for g in guests if now[g.port] <= before[g.port]]

        self.wait_until("its data goes on", stuck, seconds)

    def wait_one_owner(self, guests: Sequence[Guest]) -> None:
        """Wait until of the servers' kernels just one has each connection: the others have heard that it has left."""
        hosts = self._stage.scene.net.servers

        def elsewhere() -> list[Guest]:
            sockets = "".join(checked(host, "ss", "-Htn", "state", "established") for host in hosts)
            peers = Counter(line.split()[3].rsplit(":", 1)[1] for line in sockets.splitlines())
            return [g for g in guests if peers[str(g.port)] != 1]

        self.wait_until("one server has it", elsewhere, LET_GO)

    def request(self, guest: Guest, to: str) -> Future[Outcome | str]:
        """Ask the client's agent for a move; the answer, or the refusal as a text."""

        def move() -> Outcome | str:
            try:
                return local.request({"op": "migrate", "connection": guest.name, "to": to})
            except MtcpError as error:
                return str(error)

        return self._stage.commands.submit(move)

    def hint(self, guest: Guest, to: str) -> Outcome:
        """Let the first server ask the client's agent to move it."""
        order = {"op": "hint", "connection": guest.name, "reason": "OVERLOAD", "to": to}
        return self._stage.asks_s1.submit(local.request, order).result(30)

    def wait_moved(self, guests: Sequence[Guest], to: str, seconds: float = 10.0) -> None:
        """Wait until the client's agent says that they have moved."""

        def elsewhere() -> list[Guest]:
            rows = self.rows()
            return [g for g in guests if rows[g.port]["current"].split(":")[0] != to]

        self.wait_until("its agent says that it has moved", elsewhere, seconds)

    def move_all(self, guests: Sequence[Guest], to: str, spacing: float = 0.01) -> dict[int, Future[Outcome | str]]:
        futures = {}
        for guest in guests:
            futures[guest.port] = self.request(guest, to)
            time.sleep(spacing)
        return futures

    def move_again(self, guests: Sequence[Guest], seconds: float = 20.0) -> None:
        """When the faults are over: to the server that does not have it, until that succeeds."""
        self._stage.faults.rules.clear()
        self.second_at_ns = self.second_at_ns or time.time_ns()
        until = time.monotonic() + seconds
        left = list(guests)
        while left:
            rows = self.rows()
            there = {g.port: rows[g.port]["current"].split(":")[0] for g in left if g.port in rows}
            futures = {g.port: self.request(g, SERVERS[there.get(g.port) == SERVERS[0]]) for g in left}
            for guest in left:
                guest.second = futures[guest.port].result(60)
            left = [g for g in left if not (isinstance(g.second, dict) and g.second["outcome"] == "moved")]
            if left and time.monotonic() > until:
                for guest in left:
                    guest.faults.append(f"cannot move when the fault is over: {guest.second}")
                return
            time.sleep(0.1 if left else 0)

    def end(self) -> None:
        self._program.tell("end")
        report = json.loads(self._program.result().splitlines()[-1])
        self.closing_ns = report["closing_ns"]
        for guest in self.guests:
            guest.report = report["connections"][str(guest.port)]

    def judge(self, guest: Guest, cell: str) -> Trial:
        """What the captures and the client say; call when the visit is over. `cell`: whose trial it is."""
        evidence, port = self._stage.scene.evidence, guest.port
        frames = {host: p[(p["sport"] == port) | (p["dport"] == port)] for host, p in evidence.items()}
        client = frames["client"]
        syns = client[client["flags"] & (capture.SYN | capture.ACK) == capture.SYN]
        handshakes = syns[syns["control"] != capture.MIGRATE]["seq"].nunique()
        if handshakes != 1:
            guest.faults.append(f"{handshakes} handshakes")
        for host, packets in frames.items():
            resets = (packets["flags"] & capture.RST != 0) & (packets["control"] < capture.MIGRATE)
            early = packets[resets & (packets["time_ns"] < self.closing_ns)]
            if len(early) and not guest.report["errors"]:  # a kernel that has given up resets
                ends = early[["sport", "dport"]].to_dict("records")
                before = (self.closing_ns - early["time_ns"]).max() / 1e9
                guest.faults.append(f"RST at {host}, {before:.3f} s before the end: {ends}")
        # Where the client's kernel sends to, by way of its mapping, is the server that it listens to.
        sent = client[(client["src"] == capture.address(ADDRESSES["client"])) & (client["control"] < capture.MIGRATE)]
        to = sent[sent["time_ns"] < self.second_at_ns]["dst"].iloc[-1]
        trial = Trial(
            bool(to == capture.address(SERVERS[1])), guest.report["gap"], guest.report["errors"], guest.faults
        )
        if MEASURED:
            with Path(MEASURED).open("a") as file:
                file.write(json.dumps({"cell": cell, "workload": guest.kind, **asdict(trial)}) + "\n")
        return trial


@dataclass(frozen=True)
class Trial:
    """How it went."""

    moved: bool
    """Whether the client's data came from the other server, before the fault was over."""
    stall: float
    """Seconds for which the client's data stopped at most."""
    errors: list[str]
    """What the client saw that no connection should show."""
    faults: list[str]
    """What no connection may suffer."""
