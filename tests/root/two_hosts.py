"""Two hosts for tests of the datapath: a client, and a host with two server addresses, joined by a veth."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mtcp import seq
from mtcp.address import Endpoint, FourTuple, unpack_ip
from mtcp.linux import tcp_repair
from mtcp.linux.datapath import Datapath, Entry
from mtcp.wire import options
from testbed.namespaces import setns

PORT, S2_PORT = 8000, 9000
ADDRESSES = {  # of the client, of both servers, and of nobody; the length of the network's prefix
    socket.AF_INET: ("10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.9", "24"),
    socket.AF_INET6: ("fd77::1", "fd77::2", "fd77::3", "fd77::9", "64"),
}
FAMILIES = list(ADDRESSES)
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
TCP_REPAIR, REPAIR_QUEUE, QUEUE_SEQ, REPAIR_OPTIONS, TIMESTAMP, REPAIR_WINDOW = 19, 20, 21, 22, 24, 29
RECV_QUEUE, SEND_QUEUE = 1, 2


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def cgroup_root() -> Path:
    """Where cgroup v2 is mounted."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return Path(next(mount[1] for mount in mounts if mount[2] == "cgroup2"))


class Host:
    """A network namespace and a cgroup; sockets made `inside` belong to both for ever."""

    def __init__(self, name: str, netns: int, cgroup: Path) -> None:
        self.name, self.netns, self.cgroup = name, netns, cgroup

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        line = next(x for x in Path("/proc/self/cgroup").read_text().splitlines() if x.startswith("0::"))
        home = cgroup_root() / line[3:].lstrip("/")
        outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        setns(self.netns)
        (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (home / "cgroup.procs").write_text(str(os.getpid()))
            setns(outside)
            os.close(outside)

    def attach(self, interface: str, **options: object) -> Datapath:
        with self.inside():
            return Datapath.attach(self.cgroup, [interface], **options)  # type: ignore[arg-type]

    def capture(self, interface: str) -> socket.socket:
        """All frames on the interface, as the taps see them."""
        with self.inside():
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        tap.bind((interface, ETH_P_ALL))
        tap.settimeout(0.3)
        return tap


@contextlib.contextmanager
def made_host(role: str) -> Iterator[Host]:
    """A host that leaves nothing behind."""
    name = f"mtcp-{os.getpid()}-{role}"
    with contextlib.ExitStack() as undo:
        cgroup = cgroup_root() / name
        cgroup.mkdir()
        undo.callback(cgroup.rmdir)
        run("ip", "netns", "add", name)
        undo.callback(run, "ip", "netns", "del", name)
        netns = os.open(f"/run/netns/{name}", os.O_RDONLY)
        undo.callback(os.close, netns)
        yield Host(name, netns, cgroup)


class Network:
    """Client and server host, their datapaths, and whatever has to be closed."""

    def __init__(self, stack: contextlib.ExitStack, family: socket.AddressFamily) -> None:
        self.stack, self.family = stack, family
        self.client_ip, s1_ip, s2_ip, self.ghost_ip, _ = ADDRESSES[family]
        self.s1, self.s2 = Endpoint(s1_ip, PORT), Endpoint(s2_ip, S2_PORT)
        self.client, self.server = (stack.enter_context(made_host(role)) for role in ("client", "server"))
        run(
            *("ip", "link", "add", "c0", "netns", self.client.name, "type", "veth"),
            *("peer", "name", "s0", "netns", self.server.name),
        )
        for host, interface in ((self.client, "c0"), (self.server, "s0")):
            run("ip", "-n", host.name, "link", "set", interface, "up")
        for client, s1, s2, _, prefix in ADDRESSES.values():
            for host, interface, address in (
                (self.client, "c0", client),
                (self.server, "s0", s1),
                (self.server, "s0", s2),
            ):
                nodad = ["nodad"] if ":" in address else []
                run("ip", "-n", host.name, "address", "add", f"{address}/{prefix}", "dev", interface, *nodad)

    def attach(self, capacity: int = 64) -> tuple[Datapath, Datapath]:
        """Datapaths on both hosts; PORT is registered."""
        datapaths = (
            self.client.attach("c0", capacity=capacity),
            self.server.attach("s0", capacity=capacity),
        )
        for datapath in datapaths:
            self.stack.callback(datapath.close)
        datapaths[1].listen(PORT)
        return datapaths

    def listener(self, port: int = PORT) -> socket.socket:
        with self.server.inside():
            listener = socket.create_server((self.s1.ip, port), family=self.family)
        return self.kept(listener)

    def connect(self, listener: socket.socket, source_port: int = 0) -> tuple[socket.socket, socket.socket]:
        """Client's and server's socket of a new connection."""
        with self.client.inside():
            client = self.kept(socket.socket(self.family))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((self.client_ip, source_port))
        client.settimeout(5)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        server.settimeout(5)
        return client, self.kept(server)

    def kept(self, sock: socket.socket) -> socket.socket:
        self.stack.callback(sock.close)
        return sock


@contextlib.contextmanager
def two_hosts(family: socket.AddressFamily = socket.AF_INET) -> Iterator[Network]:
    with contextlib.ExitStack() as stack:
        yield Network(stack, family)


def tuple_of(sock: socket.socket) -> FourTuple:
    return FourTuple(Endpoint(*sock.getsockname()[:2]), Endpoint(*sock.getpeername()[:2]))


def find(datapath: Datapath, sock: socket.socket) -> Entry:
    entry = datapath.find(tuple_of(sock))
    assert entry is not None
    return entry


def until(condition: Callable[[], object], seconds: float = 5) -> None:
    """Wait for the condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def silent(sock: socket.socket, seconds: float = 0.25) -> bool:
    """Nothing arrives, not even an end."""
    return not select.select([sock], [], [], seconds)[0]


def read_exactly(sock: socket.socket, size: int) -> bytes:
    chunks = []
    while size:
        chunk = sock.recv(min(size, 1 << 20))
        assert chunk, "unexpected end"
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


class Segment:
    """A captured TCP segment."""

    def __init__(self, frame: bytes) -> None:
        ipv6 = frame[14] >> 4 == 6
        ends, tcp = (frame[22:54], frame[54:]) if ipv6 else (frame[26:34], frame[34:])
        half = len(ends) // 2
        self.source, self.destination = unpack_ip(ends[:half]), unpack_ip(ends[half:])
        self.sport, self.dport, self.seq, self.ack, offset, self.flags, self.window = struct.unpack_from(
            "!HHIIBBH", tcp
        )
        self.options = tcp[20 : (offset >> 4) * 4]

    def has_sack(self) -> bool:
        """Whether it acknowledges data out of order."""
        return any(option[0] == 5 for option in shape(self.options))

    def has_ours(self) -> bool:
        return b"\xfd\x08MT" in self.options or b"\xfd\x10MT" in self.options


def segments(tap: socket.socket) -> list[Segment]:
    """All TCP segments captured until nothing comes for a while."""
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            frame = tap.recv(1 << 17)
            if (frame[12:14], frame[23]) == (b"\x08\x00", 6) or (frame[12:14], frame[20]) == (b"\x86\xdd", 6):
                found.append(Segment(frame))
    return found


def shape(options: bytes) -> list[bytes]:
    """Options one by one; a timestamp's value, which differs every time, is left out."""
    found = []
    while options and options[0] != 0:  # the end of all options
        size = 1 if options[0] == 1 else options[1]
        found.append(options[:2] if options[0] == 8 else options[:size])
        options = options[size:]
    return found


@contextlib.contextmanager
def repaired(sock: socket.socket) -> Iterator[None]:
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    try:
        yield
    finally:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, -1)  # off, and send nothing


def numbers(sock: socket.socket) -> tuple[int, int]:
    """The socket's own rcv_nxt and snd_nxt (all sent)."""
    values = []
    with repaired(sock):
        for queue in (RECV_QUEUE, SEND_QUEUE):
            sock.setsockopt(socket.IPPROTO_TCP, REPAIR_QUEUE, queue)
            values.append(struct.unpack("I", sock.getsockopt(socket.IPPROTO_TCP, QUEUE_SEQ, 4))[0])
    return values[0], values[1]


def take_over(
    network: Network, old: socket.socket, new: Endpoint | None = None, repeat: int = 0, host: Host | None = None
) -> socket.socket:
    """A socket of another server address that goes on `repeat` bytes before where `old` stopped."""
    tcp = socket.IPPROTO_TCP
    rcv_nxt, snd_nxt = numbers(old)
    with repaired(old):
        window = old.getsockopt(tcp, REPAIR_WINDOW, 20)
    info = old.getsockopt(tcp, socket.TCP_INFO, 8)
    scales = (info[6] & 15) | (info[6] >> 4) << 16
    with (host or network.server).inside():
        sock = network.kept(socket.socket(network.family))
    mss = old.getsockopt(tcp, socket.TCP_MAXSEG)
    with repaired(sock):
        sock.bind(new or network.s2)
        for queue, number in ((SEND_QUEUE, seq.add(snd_nxt, -repeat)), (RECV_QUEUE, rcv_nxt)):
            sock.setsockopt(tcp, REPAIR_QUEUE, queue)
            sock.setsockopt(tcp, QUEUE_SEQ, struct.pack("I", number))
        sock.setsockopt(tcp, TIMESTAMP, old.getsockopt(tcp, TIMESTAMP))
        sock.setsockopt(tcp, socket.TCP_MAXSEG, mss)
        sock.connect(tuple(tcp_repair.four_tuple_of(old).remote))
        timestamps = (8, 0) if info[5] & 1 else ()
        negotiated = (2, mss, 3, scales, 4, 0, *timestamps)
        sock.setsockopt(tcp, REPAIR_OPTIONS, struct.pack(f"{len(negotiated)}I", *negotiated))
        sock.setsockopt(tcp, REPAIR_WINDOW, window)
    sock.settimeout(5)
    return sock


def begin(datapath: Datapath, entry: Entry, server: Endpoint) -> Entry:
    """As the agent does it."""
    return datapath.begin(entry, server, options.Accept(entry.next_attempt).signed(entry.key).mac)


def accept(network: Network, entry: Entry, mac: bytes | None = None, host: Host | None = None) -> None:
    """The next server's ACCEPT of the attempt that `begin` returned, or a forged one."""
    assert entry.next is not None
    accepting = options.Accept(entry.attempt).signed(entry.key)
    option = options.encode(accepting if mac is None else dataclasses.replace(accepting, mac=mac)) + b"\x01" * 2
    raw_segment(host or network.server, entry.next, entry.four_tuple.local, entry.rcv_nxt, entry.snd_nxt, 0x12, option)


def raw_segment(
    host: Host,
    source: Endpoint,
    destination: Endpoint,
    number: int,
    ack: int,
    flags: int,
    option: bytes = b"",
    payload: bytes = b"",
) -> None:
    """Send one crafted segment; `payload` has an even length."""
    tcp = struct.pack(
        "!HHIIBBHHH", source.port, destination.port, number, ack, (20 + len(option)) // 4 << 4, flags, 500, 0, 0
    )
    tcp += option + payload
    pseudo = source.packed + destination.packed + struct.pack("!HH", 6, len(tcp))
    total = sum(struct.unpack(f"!{len(pseudo + tcp) // 2}H", pseudo + tcp))
    total = (total & 0xFFFF) + (total >> 16)
    tcp = tcp[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + tcp[18:]
    ipv6 = len(source.packed) == 16
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    transparent = (socket.IPPROTO_IPV6, IPV6_TRANSPARENT) if ipv6 else (socket.IPPROTO_IP, IP_TRANSPARENT)
    with host.inside(), socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        sock.setsockopt(*transparent, 1)  # other hosts' addresses, too
        sock.bind((source.ip, 0))
        sock.sendto(tcp, (destination.ip, 0))
