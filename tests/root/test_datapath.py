"""The BPF datapath on two real kernels' TCP: a client and a host with two server addresses, joined by a veth."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mtcp.address import Endpoint, FourTuple
from mtcp.linux.datapath import Datapath, DatapathError, Entry, EntryState, EventKind

pytestmark = pytest.mark.root

CLIENT_IP, S1_IP, S2_IP = "10.77.0.1", "10.77.0.2", "10.77.0.3"
PORT = 8000
S2 = Endpoint(S2_IP, 9000)  # another port, too
CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
TCP_REPAIR, REPAIR_QUEUE, QUEUE_SEQ, REPAIR_OPTIONS, TIMESTAMP, REPAIR_WINDOW = 19, 20, 21, 22, 24, 29
RECV_QUEUE, SEND_QUEUE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def cgroup_root() -> Path:
    """Where cgroup v2 is mounted."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return Path(next(mount[1] for mount in mounts if mount[2] == "cgroup2"))


class Host:
    """A network namespace and a cgroup; sockets made `inside` belong to both for ever."""

    def __init__(self, role: str) -> None:
        self.name = f"mtcp-{os.getpid()}-{role}"
        self.cgroup = cgroup_root() / self.name
        self.cgroup.mkdir()
        run("ip", "netns", "add", self.name)
        self.netns = os.open(f"/run/netns/{self.name}", os.O_RDONLY)

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

    def close(self) -> None:
        os.close(self.netns)
        run("ip", "netns", "del", self.name)
        self.cgroup.rmdir()


class Network:
    """Client and server host, their datapaths, and whatever has to be closed."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.client, self.server = Host("client"), None
        stack.callback(self.client.close)
        self.server = Host("server")
        stack.callback(self.server.close)
        run(
            *("ip", "link", "add", "c0", "netns", self.client.name, "type", "veth"),
            *("peer", "name", "s0", "netns", self.server.name),
        )
        for host, interface, addresses in ((self.client, "c0", [CLIENT_IP]), (self.server, "s0", [S1_IP, S2_IP])):
            for address in addresses:
                run("ip", "-n", host.name, "address", "add", f"{address}/24", "dev", interface)
            run("ip", "-n", host.name, "link", "set", interface, "up")

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
            listener = socket.create_server((S1_IP, port))
        return self.kept(listener)

    def connect(self, listener: socket.socket, source_port: int = 0) -> tuple[socket.socket, socket.socket]:
        """Client's and server's socket of a new connection."""
        with self.client.inside():
            client = self.kept(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind((CLIENT_IP, source_port))
        client.settimeout(5)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        server.settimeout(5)
        return client, self.kept(server)

    def kept(self, sock: socket.socket) -> socket.socket:
        self.stack.callback(sock.close)
        return sock


@pytest.fixture
def network() -> Iterator[Network]:
    with contextlib.ExitStack() as stack:
        yield Network(stack)


def tuple_of(sock: socket.socket) -> FourTuple:
    return FourTuple(Endpoint(*sock.getsockname()), Endpoint(*sock.getpeername()))


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
        self.source, self.destination = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
        tcp = frame[34:]
        self.sport, self.dport, self.seq, self.ack, offset, self.flags, self.window = struct.unpack_from("!HHIIBBH", tcp)
        self.options = tcp[20 : (offset >> 4) * 4]

    def has_ours(self) -> bool:
        return b"\xfd\x08MT" in self.options or b"\xfd\x10MT" in self.options


def segments(tap: socket.socket) -> list[Segment]:
    """All TCP segments captured until nothing comes for a while."""
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            frame = tap.recv(1 << 17)
            if frame[12:14] == b"\x08\x00" and frame[23] == 6:
                found.append(Segment(frame))
    return found


def shape(options: bytes) -> list[bytes]:
    """Options one by one; a timestamp's value, which differs every time, is left out."""
    found = []
    while options:
        size = 1 if options[0] < 2 else options[1]
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


def take_over(network: Network, old: socket.socket, new: Endpoint = S2) -> socket.socket:
    """A socket of another server address that goes on where `old`, whose queues are empty, stopped."""
    tcp = socket.IPPROTO_TCP
    rcv_nxt, snd_nxt = numbers(old)
    with repaired(old):
        window = old.getsockopt(tcp, REPAIR_WINDOW, 20)
    info = old.getsockopt(tcp, socket.TCP_INFO, 8)
    scales = (info[6] & 15) | (info[6] >> 4) << 16
    with network.server.inside():
        sock = network.kept(socket.socket())
    with repaired(sock):
        sock.bind(new)
        for queue, seq in ((SEND_QUEUE, snd_nxt), (RECV_QUEUE, rcv_nxt)):
            sock.setsockopt(tcp, REPAIR_QUEUE, queue)
            sock.setsockopt(tcp, QUEUE_SEQ, struct.pack("I", seq))
        sock.setsockopt(tcp, TIMESTAMP, old.getsockopt(tcp, TIMESTAMP))
        sock.setsockopt(tcp, socket.TCP_MAXSEG, 1460)
        sock.connect(old.getpeername())
        sock.setsockopt(tcp, REPAIR_OPTIONS, struct.pack("8I", 2, 1460, 3, scales, 4, 0, 8, 0))
        sock.setsockopt(tcp, REPAIR_WINDOW, window)
    sock.settimeout(5)
    return sock


def raw_segment(host: Host, source: Endpoint, destination: Endpoint, seq: int, ack: int, flags: int, option: bytes) -> None:
    """Send one crafted segment."""
    tcp = struct.pack(
        "!HHIIBBHHH", source.port, destination.port, seq, ack, (20 + len(option)) // 4 << 4, flags, 500, 0, 0
    )
    tcp += option
    pseudo = source.packed + destination.packed + struct.pack("!HH", 6, len(tcp))
    total = sum(struct.unpack(f"!{len(pseudo + tcp) // 2}H", pseudo + tcp))
    total = (total & 0xFFFF) + (total >> 16)
    tcp = tcp[:16] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + tcp[18:]
    with host.inside(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        sock.bind((source.ip, 0))
        sock.sendto(tcp, (destination.ip, 0))


CONTROL = b"\xfd\x06MT\x21\x00\x01\x01"  # subtype 2


def test_options_are_on_the_wire_for_registered_ports_only(network: Network) -> None:
    plain_listener = network.listener(PORT + 1)
    tap = network.server.capture("s0")
    network.connect(plain_listener)
    plain = segments(tap)
    network.attach()
    listener, unregistered = network.listener(PORT), network.listener(PORT + 2)
    client, _ = network.connect(listener)
    client.sendall(b"x")
    marked = segments(tap)
    network.connect(plain_listener)
    network.connect(unregistered)
    again = segments(tap)
    tap.close()
    plain_synack = next(s for s in plain if s.flags == 0x12)
    assert not any(s.has_ours() for s in plain)
    assert [s.flags for s in marked if s.has_ours()] == [0x02, 0x12]
    assert next(s for s in marked if s.flags == 2).options.endswith(b"\xfd\x08MT\x11\0\0\0")
    for synack in (s for s in again if s.flags == 0x12):
        assert shape(synack.options) == shape(plain_synack.options)
    assert len([s for s in again if s.flags == 0x12]) == 2


def test_both_sides_know_the_same_connection(network: Network) -> None:
    c, s = network.attach()
    client, server = network.connect(network.listener())
    entry, accepted = find(c, client), s.accepted(tuple_of(server))
    assert accepted is not None
    assert entry.key == accepted.key != bytes(8)
    assert (entry.rcv_nxt, entry.snd_nxt) == (accepted.snd_nxt, accepted.rcv_nxt)
    assert entry.state is EntryState.TRACKED and not entry.moved and not entry.closed and entry.next is None
    assert entry.four_tuple == tuple_of(client) and entry.current == Endpoint(S1_IP, PORT)
    assert select.select([c], [], [], 1)[0]
    assert [(e.kind, e.index) for e in c.events()] == [(EventKind.ESTABLISHED, entry.index)]
    assert not select.select([c], [], [], 0)[0]
    assert s.entries() == []
    s.forget(tuple_of(server))
    assert s.accepted(tuple_of(server)) is None


@pytest.mark.parametrize("attached", ["client", "server"])
def test_one_side_alone_stays_plain(network: Network, attached: str) -> None:
    if attached == "client":
        datapath = network.client.attach("c0")
    else:
        datapath = network.server.attach("s0")
        datapath.listen(PORT)
    with contextlib.closing(datapath):
        client, server = network.connect(network.listener())
        client.sendall(b"hello")
        assert server.recv(5) == b"hello"
        assert datapath.entries() == [] and datapath.events() == []
        assert datapath.accepted(tuple_of(server)) is None


def test_unlisten_and_no_keys_mean_plain(network: Network) -> None:
    c, s = network.attach(capacity=2)
    listener = network.listener()
    for _ in range(2):
        c.remove(find(c, network.connect(listener)[0]))
    assert c.find(tuple_of(network.connect(listener)[0])) is None  # both keys are used up
    s.refill_keys()
    c.remove(find(c, network.connect(listener)[0]))
    s.unlisten(PORT)
    assert c.find(tuple_of(network.connect(listener)[0])) is None


def test_dual_stack_listener(network: Network) -> None:
    c, s = network.attach()
    with network.server.inside():
        listener = network.kept(socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True))
    with network.client.inside():
        client = network.kept(socket.create_connection((S1_IP, PORT), 5))
        mapped = network.kept(socket.socket(socket.AF_INET6))
    mapped.connect((f"::ffff:{S1_IP}", PORT))
    for sock in (client, mapped):
        listener.accept()[0].close()
        address = Endpoint(CLIENT_IP, sock.getsockname()[1])
        entry = c.find(FourTuple(address, Endpoint(S1_IP, PORT)))
        accepted = s.accepted(FourTuple(Endpoint(S1_IP, PORT), address))
        assert entry is not None and accepted is not None and entry.key == accepted.key


def test_entry_has_the_sockets_numbers(network: Network) -> None:
    c, _ = network.attach()
    tap = network.client.capture("c0")
    client, server = network.connect(network.listener())
    client.sendall(b"x" * 100_000)
    read_exactly(server, 100_000)
    server.sendall(b"y" * 200_000)
    read_exactly(client, 200_000)
    until(lambda: find(c, client).rcv_nxt == numbers(client)[0])
    entry = find(c, client)
    assert (entry.rcv_nxt, entry.snd_nxt) == numbers(client)
    assert entry.counters["clamped"] == 0
    acks = [s for s in segments(tap) if s.sport == client.getsockname()[1]]
    tap.close()
    assert entry.window == acks[-1].window
    assert time.monotonic_ns() - entry.last_seen_ns < 10**9
    assert entry.committed_at_ns == 0
    assert c.entry(entry.index) == entry and c.entries() == [entry]


def test_begin_holds_both_ways_and_abort_lets_go(network: Network) -> None:
    c, _ = network.attach()
    client, server = network.connect(network.listener())
    entry = c.begin(find(c, client), S2)
    assert (entry.state, entry.next, entry.attempt) == (EntryState.MIGRATING, S2, 1)
    client.sendall(b"up")
    server.sendall(b"down")
    assert silent(server) and silent(client)
    counters = c.entry(entry.index).counters
    assert counters["held"] > 0 and counters["deaf_dropped"] > 0
    with pytest.raises(ValueError, match="MIGRATING"):
        c.begin(c.entry(entry.index), S2)
    assert c.abort(entry) and c.abort(entry)
    assert c.entry(entry.index).state is EntryState.TRACKED
    assert read_exactly(client, 4) == b"down" and read_exactly(server, 2) == b"up"
    with pytest.raises(ValueError, match="already at"):
        c.begin(c.entry(entry.index), Endpoint(S1_IP, PORT))
    with pytest.raises(ValueError, match="read it again"):
        c.begin(find_stale_word(entry), S2)
    assert c.begin(c.entry(entry.index), S2).attempt == 2


def find_stale_word(entry: Entry) -> Entry:
    """The entry as it was before it began to move."""
    import dataclasses

    return dataclasses.replace(entry, state=EntryState.TRACKED, word=1)


def test_first_segment_of_the_next_server_commits(network: Network) -> None:
    c, _ = network.attach()
    client, s1 = network.connect(network.listener())
    s1.sendall(b"one")
    assert read_exactly(client, 3) == b"one"
    until(lambda: find(c, client).rcv_nxt == numbers(client)[0])
    c.events()
    entry = c.begin(find(c, client), S2)
    s2 = take_over(network, s1)
    client.sendall(b"held")
    for flags in (0x04, 0x14, 0x12, 0x00):  # RST, RST+ACK, SYN+ACK, nothing: no commit
        raw_segment(network.server, S2, entry.four_tuple.local, entry.rcv_nxt, entry.snd_nxt, flags, b"")
    time.sleep(0.05)
    assert c.entry(entry.index).state is EntryState.MIGRATING
    assert c.entry(entry.index).counters["rst_dropped"] == 2
    before = time.monotonic_ns()
    s2.sendall(b"two")
    assert read_exactly(client, 3) == b"two"
    assert read_exactly(s2, 4) == b"held"
    moved = c.entry(entry.index)
    assert (moved.state, moved.current, moved.next, moved.moved) == (EntryState.TRACKED, S2, None, True)
    assert before < moved.committed_at_ns < time.monotonic_ns()
    assert [(e.kind, e.index) for e in c.events()] == [(EventKind.COMMITTED, entry.index)]
    assert not c.abort(entry)
    assert find(c, client) == c.entry(entry.index)
    assert client.getpeername() == (S1_IP, PORT)
    s1.sendall(b"late")  # the old server is not heard any more, its reset neither
    raw_segment(network.server, Endpoint(S1_IP, PORT), entry.four_tuple.local, moved.rcv_nxt, 0, 0x04, b"")
    assert silent(client)
    counters = c.entry(entry.index).counters
    assert counters["other_dropped"] > 0 and counters["rst_dropped"] == 3
    client.sendall(b"more")
    assert read_exactly(s2, 4) == b"more"
    s2.close()
    assert client.recv(1) == b""


def test_aborted_attempt_cannot_commit(network: Network) -> None:
    c, _ = network.attach()
    client, s1 = network.connect(network.listener())
    entry = c.begin(find(c, client), S2)
    s2 = take_over(network, s1)
    assert c.abort(entry)
    s2.sendall(b"two")
    assert silent(client)
    assert c.entry(entry.index).current == Endpoint(S1_IP, PORT)
    s1.sendall(b"one")
    assert read_exactly(client, 3) == b"one"
    client.sendall(b"up")
    assert read_exactly(s1, 2) == b"up"


def test_abort_and_commit_exclude_each_other(network: Network) -> None:
    c, _ = network.attach()
    client, _ = network.connect(network.listener())
    home = find(c, client).current
    outcomes = set()
    for round_number in range(60):
        entry = find(c, client)
        other = S2 if entry.current == home else home
        entry = c.begin(entry, other)
        send = threading.Thread(
            target=raw_segment,
            args=(network.server, other, entry.four_tuple.local, entry.rcv_nxt, entry.snd_nxt, 0x10, b""),
        )
        send.start()
        time.sleep(round_number % 20 * 0.0001)
        aborted = c.abort(entry)
        send.join()
        time.sleep(0.002)
        now = find(c, client)
        assert now.state is EntryState.TRACKED
        assert now.current == (entry.current if aborted else other)
        outcomes.add(aborted)
    assert outcomes == {True, False}


def test_control_segments_never_reach_the_kernel(network: Network) -> None:
    c, s = network.attach()
    client, server = network.connect(network.listener())
    entry = find(c, client)
    local, remote = entry.four_tuple
    seen_by_client, seen_by_server = network.client.capture("c0"), network.server.capture("s0")
    raw_segment(network.server, remote, local, entry.rcv_nxt, entry.snd_nxt, 0x14, CONTROL)  # RST, ACK
    raw_segment(network.client, local, remote, entry.snd_nxt, entry.rcv_nxt, 0x14, CONTROL)
    entry = c.begin(find(c, client), S2)  # they pass while migrating, too, and even with SYN
    raw_segment(network.client, local, remote, entry.snd_nxt, entry.rcv_nxt, 0x02, CONTROL)
    assert [x.flags for x in segments(seen_by_client) if x.sport == PORT] == [0x14]
    assert [x.flags for x in segments(seen_by_server) if x.dport == PORT] == [0x14, 0x02]
    now = c.entry(entry.index)
    assert (now.counters["egress"], now.counters["held"], now.stale) == (entry.counters["egress"], 0, False)
    assert c.abort(entry)
    client.sendall(b"alive")
    assert read_exactly(server, 5) == b"alive"
    assert s.entries() == []


def test_remove_and_capacity(network: Network) -> None:
    c, s = network.attach(capacity=2)
    listener = network.listener()
    pairs = [network.connect(listener) for _ in range(2)]
    s.refill_keys()
    plain, plain_server = network.connect(listener)  # no entry is left: plain TCP
    plain.sendall(b"x")
    assert read_exactly(plain_server, 1) == b"x"
    assert c.find(tuple_of(plain)) is None and len(c.entries()) == 2
    entry = find(c, pairs[0][0])
    c.abort(c.begin(entry, S2))
    c.remove(entry)
    c.remove(entry)  # nothing more happens
    assert c.find(entry.four_tuple) is None and len(c.entries()) == 1
    with pytest.raises(ValueError, match="read it again"):
        c.begin(entry, S2)
    s.refill_keys()
    pairs[0][0].sendall(b"y")  # a removed connection is a plain one
    assert read_exactly(pairs[0][1], 1) == b"y"
    third = find(c, network.connect(listener)[0])
    assert third.index == entry.index and third.cookie != entry.cookie
    c.remove(entry)
    assert c.entry(third.index) == third


def test_closed_and_stale(network: Network) -> None:
    c, s = network.attach()
    listener = network.listener()
    client, server = network.connect(listener, 5555)
    entry = find(c, client)
    c.events()
    server.close()
    assert client.recv(1) == b""
    client.close()
    until(lambda: c.entry(entry.index).closed)
    assert [(e.kind, e.index) for e in c.events()] == [(EventKind.CLOSED, entry.index)]
    with pytest.raises(ValueError, match="closed"):
        c.begin(c.entry(entry.index), S2)
    again, _ = network.connect(listener, 5555)  # the same 4-tuple: a new connection owns it
    new = find(c, again)
    assert c.entry(entry.index).stale and new.index != entry.index and new.key != entry.key
    c.remove(entry)
    assert find(c, again) == new
    s.unlisten(PORT)
    again.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    again.close()
    plain, _ = network.connect(listener, 5555)
    assert c.find(tuple_of(plain)) is None and c.entry(new.index).stale
    assert s.accepted(FourTuple(Endpoint(S1_IP, PORT), Endpoint(CLIENT_IP, 5555))) is None


def test_another_connection_to_the_next_server_forbids_the_move(network: Network) -> None:
    c, s = network.attach()
    s.listen(S2.port)
    client, _ = network.connect(network.listener(), 5556)
    with network.server.inside():
        second = network.kept(socket.create_server(S2))
    network.connect(second, 5556)
    with pytest.raises(ValueError, match="another connection"):
        c.begin(find(c, client), S2)


def test_bulk_in_both_directions_after_a_move(network: Network) -> None:
    """Large packets (GSO, GRO) and checksums: byte for byte."""
    c, _ = network.attach()
    client, s1 = network.connect(network.listener())
    entry = c.begin(find(c, client), S2)
    s2 = take_over(network, s1)
    data = os.urandom(16 << 20)
    for sender, receiver in ((s2, client), (client, s2)):
        thread = threading.Thread(target=sender.sendall, args=(data,))
        thread.start()
        assert read_exactly(receiver, len(data)) == data
        thread.join()
    counters = c.entry(entry.index).counters
    assert c.entry(entry.index).moved
    assert counters["ingress"] < len(data) / 1448  # large packets were among them


def test_pins_outlive_the_agent(network: Network, tmp_path: Path) -> None:
    run("mount", "-t", "bpf", "bpf", str(tmp_path))
    network.stack.callback(run, "umount", str(tmp_path))
    pins = tmp_path / "mtcp"
    server = network.server.attach("s0")
    network.stack.callback(server.close)
    server.listen(PORT)
    c = network.client.attach("c0", pin_dir=pins, capacity=16)
    client, s1 = network.connect(network.listener())
    entry = c.begin(find(c, client), S2)
    s2 = take_over(network, s1)
    s2.sendall(b"two")
    assert read_exactly(client, 3) == b"two"
    c.close()
    client.sendall(b"nobody is watching")
    assert read_exactly(s2, 18) == b"nobody is watching"
    c = network.client.attach("c0", pin_dir=pins)
    assert c.capacity == 16 and c.entry(entry.index).current == S2
    assert [e.kind for e in c.events()] == [EventKind.ESTABLISHED, EventKind.COMMITTED]
    c.remove(c.entry(entry.index))
    assert c.entries() == []
    c.detach()
    assert not pins.exists()
    late, _ = network.connect(network.listener(PORT + 1))
    assert tuple_of(late).remote.port == PORT + 1


def test_errors_say_what_to_do(network: Network, tmp_path: Path) -> None:
    with pytest.raises(DatapathError, match="no interface 'nosuch'"):
        network.client.attach("nosuch")
    with pytest.raises(DatapathError, match="no BPF file system"):
        network.client.attach("c0", pin_dir=tmp_path / "pins")
    with pytest.raises(DatapathError, match="not a cgroup v2 directory"):
        Datapath.attach(tmp_path, ["lo"])
