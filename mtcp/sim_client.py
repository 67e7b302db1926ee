"""The client of `mtcp.sim`: an agent with the client's role, and what outlives it, kernel, application and mapping."""

from __future__ import annotations

from mtcp import seq
from mtcp.address import Endpoint, FourTuple
from mtcp.roles.client import ClientRole, Mark
from mtcp.sim_kernel import Data
from mtcp.sim_network import Host, Network
from mtcp.sim_server import Server
from mtcp.states import Client
from mtcp.wire import options
from mtcp.wire.options import Accept, AnyOption

END = Endpoint("10.0.0.9", 50000)
KEY = b"8 bytes!"


class SimClient(Host):
    """The port of the role, too."""

    def __init__(self, net: Network, first: Endpoint, servers: dict[Endpoint, Server], upload: bytes) -> None:
        super().__init__("C", net)
        r = net.random
        self.four_tuple = FourTuple(END, first)
        self.upload, self.received = upload, bytearray()
        self.isn, self.server_isn = (seq.add(r.choice([0, r.getrandbits(32)]), -r.randrange(200)) for _ in "io")
        self.open = True
        self.error: Endpoint | None = None
        """The server that has reset the connection."""
        self._acked = 0
        # The mapping's entry.
        self.current = self.next = first
        self.attempt = 0
        self.migrating = False
        self._told = self._told_before = self._marked = self._seen = self.server_isn
        self.aborted: set[int] = set()
        self.moves: list[Endpoint] = []
        """Where it has committed to."""
        self._servers = servers
        self.role: ClientRole | None = ClientRole(self.four_tuple, KEY, first, self)

    def waits_for(self, attempt: int) -> bool:
        """Whether a server that takes the connection by `attempt` is, or may come to be, the one that has it."""
        return self.attempt == attempt and attempt not in self.aborted

    # -- the kernel, behind the mapping

    def transmit(self) -> None:
        """What is not acknowledged, or a pure acknowledgement; while migrating nothing goes out."""
        if self.migrating or not self.open:
            return
        payload = self.upload[self._acked : self._acked + 1 + self.net.random.randrange(60)]
        ack = seq.add(self.server_isn, len(self.received))
        # Never more than this server has been seen to send.
        self._told_before = self._told
        ack = self._told = self._seen if seq.after(ack, self._seen) else ack
        data, server = Data(seq.add(self.isn, self._acked), ack, payload), self._servers[self.current]
        self.net.send(self.name, server.name, None, lambda: server.on_data(data))

    def on_data(self, server: Endpoint, data: Data) -> None:
        if server != self.current or self.migrating:
            return
        if not self.open:
            self._servers[server].on_reset()
            return
        self._seen = seq.latest(self._seen, seq.add(data.seq, len(data.payload)))
        self._acked = max(self._acked, seq.unwrap(seq.add(data.ack, -self.isn), self._acked))
        have = seq.diff(seq.add(self.server_isn, len(self.received)), data.seq)
        if 0 <= have < len(data.payload):
            self.received += data.payload[have:]
        if data.payload and self.net.random.random() < 0.7:
            self.transmit()  # otherwise the acknowledgement waits for the next tick

    def on_reset(self, server: Endpoint) -> None:
        """Of a kernel that has no such socket; the mapping lets in only the current server's."""
        if server == self.current and not self.migrating and self.open:
            self.open, self.error = False, server
            self.net.note(self.name, "the connection is reset")
            self.run(self._on_closed)

    def close(self) -> None:
        """The application dies; whether its RST arrives is as may be."""
        self.net.note(self.name, "the application dies")
        self.open = False
        self.run(self._on_closed)

    # -- the agent

    def on_control(self, server: Endpoint, option: AnyOption) -> None:
        """As the tc program and the agent do: ACCEPT commits, then the role hears of it, if there is one."""
        waited_for = self.migrating and server == self.next
        if isinstance(option, Accept) and waited_for and option.attempt == self.attempt:
            self.migrating, self.current = False, server
            self._seen = self._marked
            self.moves.append(server)
            self.net.note(self.name, f"attempt {self.attempt} commits")
            if self.net.random.random() < 0.9:  # an event of the mapping may be lost
                self.net.after(self.net.random.random() * 0.3, lambda: self.run(lambda: self._committed(server)))
        self.run(lambda: self._on_option(server, option))

    def _on_option(self, server: Endpoint, option: AnyOption) -> None:
        # An agent knows no connection whose socket has gone, unless it has just seen that.
        if self.role is not None and (self.open or self.role.state is not Client.GONE):
            self.role.on_option(server, option, self.net.now)

    def _committed(self, server: Endpoint) -> None:
        role = self.role
        if role is not None and role.state is Client.SS_ISMIGRATING and server == self.current == role.target:
            role.committed(self.net.now)

    def _on_closed(self) -> None:
        if self.role is not None and self.role.state is not Client.GONE:
            self._committed(self.current)
            self.role.closed(self.net.now)

    def tick(self) -> None:
        self.transmit()
        self.run(self._on_timer)

    def _on_timer(self) -> None:
        if self.role is not None:
            self.role.on_timer(self.net.now)

    def forget(self) -> None:
        self.role = None

    def recover(self) -> None:
        self.role = ClientRole(self.four_tuple, KEY, self.current, self)
        self.role.recover(self.next if self.migrating else None, self.attempt, self.net.now)
        if not self.open:
            self._on_closed()

    @property
    def busy(self) -> bool:
        """Whether a move is under way, or its end not settled."""
        return self.role is None or self.role.deadline is not None

    # -- ClientPort

    def begin_mapping(self, server: Endpoint) -> Mark:
        self.point()
        self.next, self.migrating, self.attempt = server, True, self.attempt + 1
        # The mapping may lag behind what has gone out.
        self._marked = self.net.random.choice((self._told, self._told, self._told_before))
        return Mark(self._marked, self.attempt)

    def abort_mapping(self) -> bool:
        self.point()
        if not self.migrating:
            return False
        self.migrating = False
        self.aborted.add(self.attempt)
        self.net.note(self.name, f"attempt {self.attempt} aborted")
        return True

    def send(self, server: Endpoint, option: AnyOption) -> None:
        self.point()
        wire, host = options.encode(option), self._servers[server]
        self.net.send(self.name, host.name, option, lambda: host.run(lambda: host.on_control(options.decode(wire))))

    def report(self, moved: bool, server: Endpoint, reason: str) -> None:
        self.net.note(self.name, f"{'moved' if moved else 'kept'}: {server.ip} {reason}")
