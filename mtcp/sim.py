"""The three roles on a small simulated network, seeded, in virtual time, with whatever may go wrong.

`Simulation(seed).run()` raises SimulationError, whose text is the trace, unless

- the client's stream is exact, and at most one server's application acted that the client may be, or come to be, with;
- the client saw no error, except when the whole server that had its connection died, or was cut off for its lease;
- all came to rest in bounded time, nobody fenced, no timer running; soon, once nothing more went wrong;
- and then, with the faults over, one more move succeeded, and the stream was complete.

The application echoes each byte, changed; the capsule is the real one, kernel and mapping are models: streams, queues
and sequence numbers, no congestion control, and no RST that arrives late. `python -m mtcp.sim SEED` shows a run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from mtcp.address import Endpoint
from mtcp.errors import LocalProtocolError
from mtcp.sim_client import END, KEY, SimClient
from mtcp.sim_kernel import Kernel, echo
from mtcp.sim_network import Faults, Network
from mtcp.sim_server import Holding, Server, owns
from mtcp.states import Client

TICK = 0.1
"""Seconds between repetitions of unacknowledged data, and between the application's turns."""
FAULTY = 5.0
"""Seconds in which faults begin."""
BOUND = 300.0
"""Virtual seconds within which all must be at rest."""
SETTLED = 30.0
"""Virtual seconds for that once nothing more goes wrong, as long as there is a client to ask."""
NETWORKS = {
    "quiet": Faults(),
    "late": Faults(delay=0.3),
    "lossy": Faults(loss=0.1, duplication=0.1, delay=0.05),
    "bad": Faults(loss=0.2, duplication=0.3, delay=0.5),
    "hardly": Faults(loss=0.4, duplication=0.3, delay=1.0),
    "parted": Faults(loss=0.05, duplication=0.1, delay=0.3, partitions=4),
    "forgetful": Faults(loss=0.1, duplication=0.2, delay=0.2, agent_crashes=3),
    "amnesiac": Faults(loss=0.3, duplication=0.3, delay=0.8, agent_crashes=8),
    "deadly": Faults(loss=0.1, duplication=0.1, delay=0.2, application_crashes=1, agent_crashes=1, server_crashes=1),
    "left": Faults(loss=0.1, duplication=0.1, delay=0.2, partitions=1, agent_crashes=1, closing=0.8),
    "secluded": Faults(loss=0.05, duplication=0.1, delay=0.2, agent_crashes=1, seclusions=1),
    "all": Faults(0.15, 0.2, 0.3, partitions=3, agent_crashes=3, application_crashes=1, closing=0.1),
}


QUIET = NETWORKS["quiet"]


class SimulationError(AssertionError):
    """An invariant does not hold; the text is the trace."""


class Simulation:
    """One run: a client, `servers` servers, and `moves` attempts to move at random times."""

    def __init__(self, seed: int, faults: Faults = QUIET, servers: int = 2, moves: int = 3) -> None:
        self.net = Network(seed, faults)
        r = self.net.random
        ends = [Endpoint(f"10.0.0.{i + 1}", 80) for i in range(servers)]
        self.servers: dict[Endpoint, Server] = {}
        client = self.client = SimClient(self.net, ends[0], self.servers, r.randbytes(r.randrange(100, 600)))
        for end in ends:
            server = self.servers[end] = Server(end, END, self.net)
            server.client, server.others = client, self.servers
        first = self.servers[ends[0]]
        kernel = Kernel(client.server_isn, client.server_isn, b"", client.isn, b"")
        first.holding = Holding(first, kernel, first.capsule(), KEY, 0, (client.isn, client.server_isn))
        first.known = first.holding
        self._expected = echo(client.upload)
        self._moves_left = moves
        self._well_since = 0.0
        self._faults_left = 0
        self.net.after(0.0, self._tick)
        self.net.after(r.random() * 0.5, self._move)
        self._plan(faults)

    def run(self) -> list[Endpoint]:
        """The servers to which the connection has moved, in order."""
        try:
            self.settle()
            self.net.faults = QUIET
            if self.client.open and not self._excused:
                self._check_rest()
                self._one_more_move()
        except Exception as error:
            trace = [*map(str, self.net.trace), f"{type(error).__name__}: {error}"]
            raise SimulationError("\n".join(trace)) from error
        finally:
            self.close()
        return self.client.moves

    def settle(self) -> None:
        """All moves, all faults, and until nobody has anything left to do."""
        self._until(lambda: not self._moves_left and not self._faulty and self._at_rest())

    def close(self) -> None:
        """Free the capsules."""
        for server in self.servers.values():
            server.close()

    def _until(self, condition: Callable[[], bool]) -> None:
        ticks = 0
        while True:
            self.net.step()
            self._check()
            if self._ticks > ticks:
                ticks = self._ticks
                if condition():
                    return

    def _one_more_move(self) -> None:
        """What is broken for good would show now."""
        for server in self.servers.values():
            server.exports = 1.0
            server.crash_soon(0)
        self.client.crash_soon(0)
        due = self._well_since = self.net.now + 2.0
        self._until(lambda: self.net.now >= due)
        role, moves = self.client.role, len(self.client.moves)
        assert role is not None, "no agent"
        role.migrate(self._elsewhere(), self.net.now)
        self._until(lambda: self._at_rest() and (self._complete or len(self.client.moves) == moves))
        assert len(self.client.moves) == moves + 1, "a move fails although all is well again"
        self._check_rest()

    # -- what happens

    def _elsewhere(self) -> Endpoint:
        assert self.client.role is not None
        return self.net.random.choice([end for end in self.servers if end != self.client.role.current])

    def _move(self) -> None:
        def migrate() -> None:
            try:
                assert self.client.role is not None
                self.client.role.migrate(self._elsewhere(), self.net.now)
            except LocalProtocolError:
                self._moves_left += 1  # one is under way

        self._moves_left -= 1
        if self.client.open:
            self.client.run(migrate)
        if self._moves_left:
            self.net.after(self.net.random.choice([0.001, 0.01, 0.3, 1.0]), self._move)

    def _plan(self, faults: Faults) -> None:
        """When what goes wrong."""
        r, hosts = self.net.random, [self.client, *self.servers.values()]
        servers = list(self.servers.values())

        def fault(action: Callable[[], None]) -> None:
            def happen() -> None:
                self._faults_left -= 1
                action()

            self._faults_left += 1
            self.net.after(r.random() * FAULTY, happen)

        def part() -> None:
            a, b = r.sample([host.name for host in hosts], 2)
            self.net.part(r.choice([[(a, b)], [(a, b), (b, a)]]), r.choice([0.3, 2.0, 12.0]) * r.random())

        def crash() -> None:
            r.choice(hosts).crash_soon(r.randrange(1, 9))

        def kill() -> None:
            held = r.choice(servers).holding
            # What it has read beyond its log cannot be had again.
            if held is not None and not held.capsule.overflowed:
                held.application = None

        def seclude() -> None:
            server = r.choice(servers)
            others = [host.name for host in hosts if host is not server]
            self.net.part([link for o in others for link in ((server.name, o), (o, server.name))], 40 + 60 * r.random())

        for _ in range(faults.seclusions):
            fault(seclude)
        for _ in range(faults.partitions):
            fault(part)
        for _ in range(faults.agent_crashes):
            fault(crash)
        for _ in range(faults.application_crashes):
            fault(kill)
        for _ in range(faults.server_crashes):
            fault(lambda: r.choice(servers).die(r.random() * 3))
        if r.random() < faults.closing:
            fault(self.client.close)

    _ticks = 0

    def _tick(self) -> None:
        self._ticks += 1
        self.client.tick()
        for server in self.servers.values():
            server.tick()
        self.net.after(TICK, self._tick)

    # -- what must hold

    @property
    def _faulty(self) -> bool:
        return self._faults_left > 0 or any(self.net.cut.values())

    @property
    def _complete(self) -> bool:
        return len(self.client.received) == len(self.client.upload)

    @property
    def _excused(self) -> bool:
        """Whether the server that had the connection is really gone; it may have taken an old copy of it since."""
        return self.servers[self.client.current].lost

    def _check(self) -> None:
        client = self.client
        assert self._expected.startswith(client.received), "the client's stream is not the one that was written"
        held = [s.holding for s in self.servers.values() if s.holding is not None]
        # One that the client has given up does not know yet, and nothing that it does can take effect.
        owners = [h for h in held if h.acts and h.wanted and h.taken_by not in client.aborted]
        assert len(owners) <= 1, "two owners"
        assert client.error is None or self.servers[client.error].lost, "the client saw an error"
        assert self.net.now < BOUND, "no end"
        if self._moves_left or self._faulty or not client.up or not client.open or self._excused:
            self._well_since = self.net.now
        assert self.net.now < self._well_since + SETTLED, "all is well, and nothing settles"

    def _at_rest(self) -> bool:
        return not self.client.busy and not any(server.busy for server in self.servers.values())

    def _check_rest(self) -> None:
        client = self.client
        assert client.role is not None and client.role.state is Client.TRACKED
        assert not client.migrating, "the mapping still waits"
        assert client.role.current == client.current, "the mapping leads elsewhere than the role thinks"
        assert [server.end for server in self.servers.values() if owns(server)] == [client.current], "whose is it?"


def replay(seed: int, network: str, servers: int) -> str:
    """How to see that run again."""
    return f"python -m mtcp.sim {seed} --faults {network} --servers {servers}"


def main() -> None:
    """Show the trace of one run."""
    parser = argparse.ArgumentParser(prog="python -m mtcp.sim", description=main.__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--faults", choices=NETWORKS, default="quiet")
    parser.add_argument("--servers", type=int, default=2)
    arguments = parser.parse_args()
    simulation = Simulation(arguments.seed, NETWORKS[arguments.faults], arguments.servers)
    try:
        simulation.run()
    except SimulationError as error:
        raise SystemExit(str(error)) from None
    print("\n".join(map(str, simulation.net.trace)))


if __name__ == "__main__":
    main()
