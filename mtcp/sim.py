"""The three roles on a small simulated network, seeded, in virtual time; messages are lost, repeated, late, reordered.

`Simulation(seed).run()` raises SimulationError, whose text is the trace, unless the client's stream is exact, at most
one server's application acted, and all came to rest in bounded time. The application echoes each byte, changed; the
capsule is the real one, kernel and mapping are models: streams, queues and sequence numbers, no congestion control.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from mtcp import seq
from mtcp.address import Endpoint, FourTuple
from mtcp.errors import LocalProtocolError, RemoteProtocolError
from mtcp.roles.client import ClientRole, Mark
from mtcp.sim_server import Data, Holding, Kernel, Server
from mtcp.states import Client, NewServer, OldServer
from mtcp.wire import options
from mtcp.wire.options import Accept, AnyOption

CLIENT = Endpoint("10.0.0.9", 50000)
KEY = b"8 bytes!"
TICK = 0.1
"""Seconds between repetitions of unacknowledged data, and between the application's turns."""
BOUND = 60.0
"""Virtual seconds within which all must be at rest."""


class SimulationError(AssertionError):
    """An invariant does not hold; the text is the trace."""


@dataclass(frozen=True)
class Faults:
    """Probabilities per message, and the longest extra delay in seconds."""

    loss: float = 0.0
    duplication: float = 0.0
    delay: float = 0.0


class Network:
    """Virtual time and unreliable delivery."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.trace: list[str] = []
        self._faults = faults
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def note(self, text: str) -> None:
        self.trace.append(f"{self.now:8.4f} {text}")

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._number), action))

    def send(self, what: str, arrive: Callable[[], None], quiet: bool = False) -> None:
        """Deliver once, twice or never, in any order."""
        copies = (self.random.random() >= self._faults.loss) + (self.random.random() < self._faults.duplication)
        if not quiet:
            self.note(f"{what}{('  LOST', '', '  TWICE')[copies]}")
        for _ in range(copies):
            self.after(0.001 + self.random.random() * self._faults.delay, arrive)

    def step(self) -> None:
        self.now, _, action = heapq.heappop(self._queue)
        try:
            action()
        except RemoteProtocolError as error:
            self.note(f"  dropped: {error}")


class SimClient:
    """The client's kernel, mapping and role; the port of the role."""

    def __init__(self, net: Network, first: Endpoint, servers: dict[Endpoint, Server], upload: bytes) -> None:
        r = net.random
        self.four_tuple = FourTuple(CLIENT, first)
        self.role = ClientRole(self.four_tuple, KEY, first, self)
        self.upload, self.received = upload, bytearray()
        self.isn, self.server_isn = (seq.add(r.choice([0, r.getrandbits(32)]), -r.randrange(200)) for _ in "io")
        self.acked = 0
        # The mapping's entry.
        self.current, self.next, self.attempt = first, first, 0
        self.migrating = False
        self.told = self.seen = self.server_isn
        self.aborted: set[int] = set()
        self.moves: list[Endpoint] = []
        self._net, self._servers = net, servers

    # -- the kernel, behind the mapping

    def transmit(self) -> None:
        """What is not acknowledged, or a pure acknowledgement; while migrating nothing goes out."""
        if self.migrating:
            return
        payload = self.upload[self.acked : self.acked + 1 + self._net.random.randrange(60)]
        ack = seq.add(self.server_isn, len(self.received))
        # Never more than this server has been seen to send.
        ack = self.told = self.seen if seq.after(ack, self.seen) else ack
        data, server = Data(seq.add(self.isn, self.acked), ack, payload), self._servers[self.current]
        self._net.send("data", lambda: server.on_data(data), quiet=True)

    def on_data(self, server: Endpoint, data: Data) -> None:
        if server != self.current or self.migrating:
            return
        self.seen = seq.latest(self.seen, seq.add(data.seq, len(data.payload)))
        self.acked = max(self.acked, seq.unwrap(seq.add(data.ack, -self.isn), self.acked))
        have = seq.diff(seq.add(self.server_isn, len(self.received)), data.seq)
        if 0 <= have < len(data.payload):
            self.received += data.payload[have:]
        if data.payload:
            self.transmit()

    def on_control(self, server: Endpoint, option: AnyOption) -> None:
        """As the tc program and the agent do: ACCEPT commits, then the role hears of it."""
        waited_for = self.migrating and server == self.next
        if isinstance(option, Accept) and waited_for and option.attempt == self.attempt:
            self.migrating, self.current = False, server
            self.seen = self.told
            self._net.note(f"C: attempt {self.attempt} commits")
            self._net.after(self._net.random.random() * 0.3, lambda: self._committed(server))
        self.role.on_option(server, option, self._net.now)

    def _committed(self, server: Endpoint) -> None:
        if server == self.current == self.role.target:
            self.role.committed(self._net.now)

    # -- ClientPort

    def begin_mapping(self, server: Endpoint) -> Mark:
        self.next, self.migrating, self.attempt = server, True, self.attempt + 1
        return Mark(self.told, self.attempt)

    def abort_mapping(self) -> bool:
        if not self.migrating:
            return False
        self.migrating = False
        self.aborted.add(self.attempt)
        self._net.note(f"C: attempt {self.attempt} aborted")
        return True

    def send(self, server: Endpoint, option: AnyOption) -> None:
        wire, host = options.encode(option), self._servers[server]
        self._net.send(f"C -> {server.ip} {option}", lambda: host.on_control(options.decode(wire)))

    def report(self, moved: bool, server: Endpoint, reason: str) -> None:
        self._net.note(f"C: {'moved' if moved else 'kept'} {server.ip} {reason}")
        if moved:
            self.moves.append(server)


class Simulation:
    """One run: a client, `servers` servers, and `moves` attempts to move at random times."""

    def __init__(self, seed: int, faults: Faults = Faults(), servers: int = 2, moves: int = 3) -> None:
        self.net = Network(seed, faults)
        r = self.net.random
        ends = [Endpoint(f"10.0.0.{i + 1}", 80) for i in range(servers)]
        self.servers: dict[Endpoint, Server] = {}
        client = self.client = SimClient(self.net, ends[0], self.servers, r.randbytes(r.randrange(100, 600)))
        for end in ends:
            server = self.servers[end] = Server(end, CLIENT, self.net)
            server.client, server.others = client, self.servers
        first = self.servers[ends[0]]
        kernel = Kernel(client.server_isn, client.server_isn, b"", client.isn, b"")
        first.holding = Holding(first, kernel, first.capsule(), KEY, 0, (client.isn, client.server_isn))
        self._expected = echo(client.upload)
        self._left = moves
        self.net.after(0.0, self._tick)
        self.net.after(r.random() * 0.5, self._move)

    def run(self) -> list[Endpoint]:
        """The servers to which the connection has moved, in order."""
        try:
            while not self._at_rest():
                self.net.step()
                self._check()
            self._check_end()
        except Exception as error:
            raise SimulationError("\n".join([*self.net.trace, f"{type(error).__name__}: {error}"])) from error
        finally:
            for server in self.servers.values():
                server.close()
        return self.client.moves

    def _move(self) -> None:
        others = [end for end in self.servers if end != self.client.role.current]
        try:
            self.client.role.migrate(self.net.random.choice(others), self.net.now)
            self._left -= 1
        except LocalProtocolError:
            pass  # one is under way
        if self._left:
            self.net.after(self.net.random.choice([0.001, 0.01, 0.3]), self._move)

    def _tick(self) -> None:
        now = self.net.now
        self.client.transmit()
        self.client.role.on_timer(now)
        for server in self.servers.values():
            server.tick(now)
        self.net.after(TICK, self._tick)

    def _acting(self) -> list[Holding]:
        return [s.holding for s in self.servers.values() if s.holding is not None and s.holding.acts]

    def _check(self) -> None:
        assert self._expected.startswith(self.client.received), "the client's stream is not the one that was written"
        # One that the client has given up does not know yet, and nothing that it does can take effect.
        owners = [h for h in self._acting() if h.taken_by not in self.client.aborted]
        assert len(owners) <= 1, "two owners"
        assert self.net.now < BOUND, "no end"

    def _at_rest(self) -> bool:
        takings = [taking for server in self.servers.values() for taking in server.takings.values()]
        return (
            not self._left
            and len(self.client.received) == len(self.client.upload)
            and self.client.role.state is Client.TRACKED
            and all(t.role.state in (NewServer.OWNED, NewServer.FAILED) for t in takings)
        )

    def _check_end(self) -> None:
        (owner,) = self._acting()
        assert owner.server.end == self.client.current == self.client.role.current, "the mapping leads elsewhere"
        assert owner.role.state is OldServer.ESTABLISHED
        assert not self.client.migrating


def echo(data: bytes) -> bytes:
    """What the application answers."""
    return bytes(byte ^ 0x5A for byte in data)
