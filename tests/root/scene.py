"""A client and two servers under migration, as tests use them, and the oracle that judges every connection.

The oracle looks at the captures of all three hosts and at nobody's word: payload from both servers, no RST on the
connection, one handshake, every move on the wire.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import capture, connections
from mtcp.address import Endpoint, FourTuple
from mtcp.agent import local
from mtcp.linux import tcp_info
from mtcp.linux.sockdiag import SockDiag, TcpSocket
from testbed.capture import Capture, capturing, drops
from testbed.namespaces import enter_network_of
from testbed.processes import PATIENCE, Program, checked
from tests.root.http_client import eventually
from topologies.two_servers import ADDRESSES, ADDRESSES6, Running

ANNOUNCED = 10.0 * PATIENCE
"""Seconds within which a client's agent knows a connection and the servers it may go to."""
SERVERS, SERVERS6 = ((addresses["s1"], addresses["s2"]) for addresses in (ADDRESSES, ADDRESSES6))
ESTABLISHED = 1
"""A socket's state."""
HELD_BACK, EVER_MORE = 0.01, 1.03
"""Seconds between 64 kB and 64 kB of a held output, and by which factor they grow: 10 MB last for a minute."""
AFTERMATH_NS = 20_000_000
"""How long after its commit what happens is still of the move."""
UNTIL_TOLD = "0"
"""A client's number of bytes: it goes on until `tell`. No other lasts for all moves however busy the machine is."""
Outcome = dict[str, Any]


def servers_for(ip: str) -> tuple[str, str]:
    """The servers' addresses of the same version of IP."""
    return SERVERS6 if ":" in ip else SERVERS


@dataclass
class Seen:
    """What the captures say of one connection of the client."""

    handshakes: int
    resets: int
    migrate_syns: int
    payload: dict[str, int]
    """Bytes of payload on the wire at the client, by server: from it, and to it."""
    steps: capture.Ints
    """When at the client the stream went on in either direction, ns since the epoch."""

    @property
    def max_gap_ms(self) -> float:
        """Longest time in which it did not, first to last payload."""
        return float(np.diff(self.steps).max(initial=0)) / 1e6

    def gap_ms(self, outcome: Outcome) -> float:
        """Longest such time that overlaps with a move."""
        to_epoch = time.time_ns() - time.monotonic_ns()
        decided, committed = outcome["decided_ns"] + to_epoch, outcome["committed_ns"] + to_epoch
        first, last = np.searchsorted(self.steps, [decided, committed + AFTERMATH_NS])
        return float(np.diff(self.steps[max(0, first - 1) : last + 1]).max(initial=0)) / 1e6


@dataclass
class Scene:
    """The running network and what runs in it."""

    net: Running
    directory: Path
    commands: ThreadPoolExecutor
    """Threads in the client's network namespace: for requests to its agent."""
    programs: list[Program] = field(default_factory=list)
    clients: list[ClientProgram] = field(default_factory=list)
    known: frozenset[str] = frozenset()
    """Connections of before the present test."""
    captures: dict[str, Capture] = field(default_factory=dict)
    evidence: dict[str, pd.DataFrame] = field(default_factory=dict)

    @classmethod
    @contextlib.contextmanager
    def of(cls, net: Running, directory: Path) -> Iterator[Scene]:
        """The scene of a running network; logs and captures go to `directory`."""
        commands = ThreadPoolExecutor(2, initializer=enter_network_of, initargs=(net.client.pid,))
        scene = cls(net, directory, commands)
        try:
            yield scene
        finally:
            for program in scene.programs:
                program.stop()

    # -- programs

    def service(self, *command: str) -> None:
        """Start a service of testbed.services on both servers."""
        for host in (self.net.s1, self.net.s2):
            log = self.directory / f"{command[0]}-{host}-{len(self.programs)}.log"
            program = Program(host, [sys.executable, "-m", f"testbed.services.{command[0]}", *command[1:]], log)
            self.programs.append(program)
            program.wait_for("listening")

    def client(self, *command: str | Path) -> ClientProgram:
        """Start an unmodified program on the client."""
        process = self.net.client.popen(
            [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        program = ClientProgram(process, self.sockets)
        self.clients.append(program)
        return program

    def sockets(self) -> str:
        """All sockets as the hosts' kernels see them: what a test that waited in vain shows."""
        hosts = (self.net.client, self.net.s1, self.net.s2)
        return "\n".join(f"{host.name}:\n{checked(host, 'ss', '-tinmoH')}" for host in hosts)

    # -- the client's agent

    def ask(self, message: dict[str, Any]) -> Outcome:
        """A request to the client's agent; MtcpError carries its refusal."""
        return self.asking(message).result(30 * PATIENCE)

    def asking(self, message: dict[str, Any]) -> Future[Outcome]:
        """As `ask`, without waiting."""
        return self.commands.submit(local.request, message)

    def connections(self) -> dict[str, dict[str, Any]]:
        """The client's open migratable connections, by local address."""
        return {row["connection"]: row for row in self.ask({"op": "ls"})["connections"]}

    def wait_for_connections(self, count: int = 1) -> list[str]:
        """Wait until the agent knows `count` new connections, and where they may go."""
        deadline = time.monotonic() + ANNOUNCED
        while True:
            rows = self.connections()
            new = [name for name, row in rows.items() if name not in self.known and row["others"]]
            if len(new) >= count:
                return sorted(new)
            assert time.monotonic() < deadline, f"{count} connections expected, the agent knows {rows}"
            time.sleep(0.005)

    def other_server(self, connection: str) -> str:
        rows = self.connections()
        assert connection in rows, f"{connection} ended before its moves did"
        current = Endpoint.parse(rows[connection]["current"]).ip
        servers = servers_for(current)
        return servers[current == servers[0]]

    def move(self, connection: str, to: str | None = None) -> Outcome:
        """Move it to the other server, or to `to`."""
        return self.ask({"op": "migrate", "connection": connection, "to": to or self.other_server(connection)})

    def moves(self, connection: str, count: int, seed: int, pause: tuple[float, float] = (0.0, 0.03)) -> list[Outcome]:
        """`count` moves there and back at random instants; every one must succeed."""
        instants = random.Random(seed)
        outcomes: list[Outcome] = []
        for _ in range(count):
            time.sleep(instants.uniform(*pause))
            outcome = self.move(connection)
            assert outcome["outcome"] == "moved", f"after {len(outcomes)} moves: {outcome}"
            outcomes.append(outcome)
        return outcomes

    def is_open(self, connection: str) -> bool:
        """Whether the client's kernel has it, and neither side has closed it."""
        sock = self._socket(connection)
        return sock is not None and sock.state == ESTABLISHED

    def received(self, connection: str) -> int:
        """Bytes that the client's kernel has received of it: what comes after a move comes from the new server."""
        sock = self._socket(connection)
        assert sock is not None, f"{connection} ended"
        return tcp_info.parse(sock.info)["bytes_received"]

    def _socket(self, connection: str) -> TcpSocket | None:
        """The client's, which its agent knows as well."""
        row = self.connections().get(connection)
        if row is None:
            return None
        ends = FourTuple(Endpoint.parse(connection), Endpoint.parse(row["server"]))
        return self.commands.submit(_find, ends).result(30 * PATIENCE)

    def wait_for_payload(self, connection: str, size: int = 1) -> None:
        """Wait until so many more bytes have come: from the server that has the connection now."""
        before = self.received(connection)
        eventually(lambda: self.received(connection) >= before + size)

    # -- evidence

    @contextlib.contextmanager
    def watched(self, name: str, hosts: Sequence[str] = ("client", "s1", "s2")) -> Iterator[None]:
        """Capture at all hosts; afterwards `evidence` has what was seen."""
        self.known = frozenset(self.connections())
        with capturing([getattr(self.net, host) for host in hosts], self.directory, f"{name}-") as self.captures:
            try:
                yield
            finally:
                for client in self.clients:
                    client.process.kill()
                self.clients.clear()
        assert not any(drops(self.captures).values()), f"a capture lost packets: {drops(self.captures)}"
        self.evidence = {host: capture.read(c.path) for host, c in self.captures.items()}

    def seen(self, connection: str) -> Seen:
        """What the captures say of the client's connection with this local address."""
        ip, port = Endpoint.parse(connection)
        servers = servers_for(ip)
        frames = {host: _of(packets, capture.address(ip), port) for host, packets in self.evidence.items()}
        client = frames["client"]
        outgoing, incoming = client[client["out"]], client[~client["out"]]
        syns = outgoing[outgoing["flags"] & (capture.SYN | capture.ACK) == capture.SYN]
        plain = syns[syns["control"] != capture.MIGRATE]
        over = _over(client)
        resets = [_resets(frame, over) for frame in frames.values()]
        return Seen(
            handshakes=plain["seq"].nunique(),
            resets=sum(resets),
            migrate_syns=int((syns["control"] == capture.MIGRATE).sum()),
            payload={ip: int(client.loc[client["server"] == capture.address(ip), "payload"].sum()) for ip in servers},
            steps=connections.steps(incoming, outgoing),
        )

    def opened(self) -> int:
        """How many connections the client has opened while watched."""
        packets = self.evidence["client"]
        syns = packets[packets["flags"] & (capture.SYN | capture.ACK) == capture.SYN]
        return len(syns.loc[syns["control"] != capture.MIGRATE, ["sport", "seq"]].drop_duplicates())

    def judge(self, connection: str, outcomes: Sequence[Outcome], connections: int = 1) -> Seen:
        """The oracle of every migration test; `connections`: how many the client has opened while watched."""
        seen = self.seen(connection)
        assert self.opened() == connections, f"the client opened {self.opened()} connections"
        assert all(outcome["outcome"] == "moved" for outcome in outcomes), outcomes
        assert seen.handshakes == 1, seen
        assert seen.resets == 0, seen
        assert seen.migrate_syns >= len(outcomes), seen
        assert all(seen.payload.values()), seen
        return seen


class ClientProgram:
    """A program that runs on the client."""

    def __init__(self, process: subprocess.Popen[bytes], sockets: Callable[[], str]) -> None:
        self.process, self.sockets = process, sockets
        self._told = threading.Event()

    def tell(self, line: str = "") -> None:
        """A line to its standard input; its result says why it reads none."""
        assert self.process.stdin is not None
        self._told.set()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()

    def line(self, timeout: float = 40.0 * PATIENCE) -> str:
        """The next line that it prints; it must not end before."""
        assert self.process.stdout is not None
        reading = ThreadPoolExecutor(1).submit(self.process.stdout.readline)
        try:
            line = reading.result(timeout)
        except TimeoutError:
            raise self._killed(f"silent for {timeout:g} s") from None
        assert line, f"it has ended: {self.result()}"
        return line.decode().strip()

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def digest(self, held: int = 0) -> Future[str]:
        """The SHA-256 of all that it will print; it must end well.

        `held`: so many bytes are read as fast as they come, the rest ever more slowly until `tell`. With 10 MB to come
        then, it does not end before.
        """

        def read() -> str:
            assert self.process.stdout is not None
            sha, size, pause = hashlib.sha256(), 0, HELD_BACK
            while piece := self.process.stdout.read(1 << 16):
                sha.update(piece)
                size += len(piece)
                if held and size >= held:
                    self._told.wait(pause)
                    pause *= EVER_MORE
            self.result()
            return sha.hexdigest()

        return ThreadPoolExecutor(1).submit(read)

    def result(self, timeout: float = 40.0 * PATIENCE) -> str:
        """What it printed last; it must end well."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise self._killed(f"runs after {timeout:g} s") from None
        assert self.process.returncode == 0, f"exit code {self.process.returncode}: {out.decode()}{err.decode()}"
        return out.decode().strip()

    def _killed(self, why: str) -> AssertionError:
        """What to raise, having ended it."""
        sockets = self.sockets()
        self.process.kill()
        out, err = self.process.communicate()
        return AssertionError(f"{why}: {out.decode()}{err.decode()}\n{sockets}")

    def strict(self) -> dict[str, Any]:
        """The strict client's own report."""
        report: dict[str, Any] = json.loads(self.result().splitlines()[-1])
        assert report["ok"], report
        return report


def _find(ends: FourTuple) -> TcpSocket | None:
    """As the kernel of this thread's network has it."""
    with contextlib.closing(SockDiag()) as sockets:
        return sockets.find(ends)


def _over(packets: pd.DataFrame) -> float:
    """When the client has had the acknowledgement of its FIN, and has acknowledged the server's; or never: inf."""
    over = []
    packets = packets[packets["control"] < capture.MIGRATE]
    for out in (True, False):
        ours, theirs = packets[packets["out"] == out], packets[packets["out"] != out]
        fins = ours[ours["flags"] & capture.FIN != 0]
        ends = (fins["seq"].to_numpy(np.int64) + fins["payload"].to_numpy(np.int64) + 1) & 0xFFFFFFFF
        over.append(theirs.loc[theirs["ack"].isin(ends), "time_ns"].min())
    return np.inf if any(pd.isna(time) for time in over) else max(over)


def _resets(packets: pd.DataFrame, over: float) -> int:
    """RSTs, but for those after the end: so any TCP answers what comes later than that, of a server it left, say."""
    rst = (packets["control"] < capture.MIGRATE) & (packets["flags"] & capture.RST != 0)
    return int((rst & (packets["time_ns"] <= over)).sum())


def _of(packets: pd.DataFrame, address: int, port: int) -> pd.DataFrame:
    """The packets of one connection of the client, with columns `out` (from the client) and `server`."""
    out = (packets["src"] == address) & (packets["sport"] == port)
    mine = packets[out | (packets["dst"] == address) & (packets["dport"] == port)]
    out = out.loc[mine.index]
    return mine.assign(out=out, server=np.where(out, mine["dst"], mine["src"]))
