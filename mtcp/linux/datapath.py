"""The client's mapping and the servers' handshake records: one host's BPF programs, seen from its agent.

`Datapath.attach` puts the same programs on every host. What they do per packet: mtcp/linux/bpf. Here: the connections
as values, and the transitions that the agent may ask for. One agent at a time may use a host's datapath.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mtcp.address import Endpoint, FourTuple
from mtcp.linux.bpf import layout, loader, transition
from mtcp.linux.bpf.asm import Field
from mtcp.linux.bpf.attachment import Attachment, DatapathError
from mtcp.linux.bpf.layout import COUNTERS, ENTRY, SERVER, EntryFlag, EntryState, EventKind
from mtcp.linux.bpf.ring import RingBuffer
from mtcp.linux.routes import Routes

__all__ = ["Accepted", "Datapath", "DatapathError", "Entry", "EntryState", "Event", "EventKind"]

DEFAULT_CAPACITY = 4096  # connections of this host's clients at a time
_INDEX_SIZE = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One connection of a client on this host, as it was when it was read."""

    index: int
    four_tuple: FourTuple  # local: the client; remote: the original server, which the socket knows
    current: Endpoint
    next: Endpoint | None  # while MIGRATING
    state: EntryState
    closed: bool  # the socket is gone or in TIME_WAIT; the peer may still repeat its last segments
    stale: bool  # a newer connection uses this 4-tuple
    key: bytes
    attempt: int  # number of times that begin succeeded
    rcv_nxt: int  # latest acknowledgement that went out, as the server saw it
    snd_nxt: int  # end of what went out
    window: int  # of the segment that rcv_nxt is from, unscaled
    rcv_start: int  # the first sequence number that the socket was to receive
    seq_max: int  # end of what the current server has been seen to send
    tcp_flags: int  # all that went out, or-ed
    last_seen_ns: int  # CLOCK_MONOTONIC, as all times here
    committed_at_ns: int  # 0: was never moved
    cookie: int  # of the socket: the identity of the connection
    word: int  # the state word (layout)
    memory: bytes = field(repr=False)  # all of it

    @property
    def counters(self) -> dict[str, int]:
        """By the names of layout.COUNTERS."""
        return {name: layout.read(self.memory, at) for name, at in COUNTERS.items()}

    @property
    def moved(self) -> bool:
        """Whether another server than the original one has the connection."""
        return self.current != self.four_tuple.remote

    @property
    def next_attempt(self) -> int:
        """The number that the next `begin` gives its attempt."""
        return (self.attempt + 1) & (0xFFFFFFFF >> layout.ATTEMPT_SHIFT)


@dataclass(frozen=True, slots=True)
class Event:
    kind: EventKind
    index: int
    time_ns: int


class Accepted(NamedTuple):
    """What this host, as a server, keeps of a connection's handshake; numbers as of ESTABLISHED."""

    key: bytes
    rcv_nxt: int
    snd_nxt: int


class _Next(NamedTuple):
    """What `begin` writes about the server that may take over."""

    server: Endpoint
    interface: int
    accept_mac: bytes


class Datapath:
    """The programs and maps of this host."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._maps = attachment.maps
        self.capacity = loader.map_info(self._maps.entries).max_entries
        size = self.capacity * ENTRY.SIZE
        self._mapping = mmap.mmap(self._maps.entries, size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._memory = memoryview(self._mapping)
        self._ring = RingBuffer(self._maps.events)
        self._hosts_routes = Routes()
        self._routes: dict[int, set[bytes]] = {}  # index -> keys that `begin` put into the ingress map
        for key in loader.map_keys(self._maps.ingress, layout.TUPLE.SIZE):
            if (index := self._lookup(self._maps.ingress, key)) is not None:
                self._routes.setdefault(index, set()).add(key)
        self.refill_keys()

    @classmethod
    def attach(
        cls, cgroup: Path, interfaces: Sequence[str], pin_dir: Path | None = None, capacity: int = DEFAULT_CAPACITY
    ) -> Datapath:
        """Attach to a cgroup v2 directory and to interfaces of this network namespace.

        With `pin_dir`, a directory in a BPF file system that this makes, everything outlives the process; what is
        pinned there already is used as it is, with its capacity. Without, all vanishes with the process. DatapathError
        says what to do.
        """
        return cls(Attachment.open(cgroup, interfaces, pin_dir, capacity))

    # -- events --

    def fileno(self) -> int:
        """Readable, for select and epoll, while events are pending."""
        return self._maps.events

    def events(self) -> list[Event]:
        """All pending events, oldest first. Events are lost when 10,000 are pending: then look at `entries`."""
        event = layout.EVENT
        return [
            Event(
                EventKind(layout.read(record, event.KIND)),
                layout.read(record, event.INDEX),
                layout.read(record, event.TIME),
            )
            for record in self._ring.drain()
        ]

    # -- client: entries --

    def entries(self) -> list[Entry]:
        """All entries in use, closed and stale ones too."""
        words = self._memory.cast("I")[ENTRY.WORD.offset // 4 :: ENTRY.SIZE // 4].tolist()
        return [self.entry(index) for index, word in enumerate(words) if word & layout.STATE_MASK]

    def entry(self, index: int) -> Entry:
        """The entry as it is now; state FREE if it is not in use. IndexError beyond the capacity."""
        if not 0 <= index < self.capacity:
            raise IndexError(f"no entry {index}: there are {self.capacity}")
        base = index * ENTRY.SIZE
        while True:  # again if a transition came in between; there are few of them
            word = layout.read(self._memory, ENTRY.WORD, base)
            memory = bytes(self._memory[base : base + ENTRY.SIZE])
            if word == layout.read(memory, ENTRY.WORD) == layout.read(self._memory, ENTRY.WORD, base):
                return _entry_of(index, memory)

    def find(self, four_tuple: FourTuple) -> Entry | None:
        """The connection with this client (local) and original server (remote), None if there is none."""
        index = self._lookup(self._maps.egress, layout.tuple_key(four_tuple))
        if index is None:
            return None
        entry = self.entry(index)
        return None if entry.stale or entry.state == EntryState.FREE else entry

    def servers(self, entry: Entry) -> list[Endpoint]:
        """All to which the connection was ever to move, also by agents that have ended."""
        return [layout.tuple_of(key).local for key in self._routes.get(entry.index, ())]

    def begin(self, entry: Entry, server: Endpoint, accept_mac: bytes) -> Entry:
        """Silence the current server, hold what goes out, and let `server` commit the move by its ACCEPT.

        That has to carry `entry.next_attempt` and this MAC. Returns the entry in state MIGRATING. ValueError when this
        connection cannot be moved there now.
        """
        if entry.state != EntryState.TRACKED:
            raise ValueError(f"{entry.four_tuple} is {entry.state.name}, not TRACKED: it cannot begin to move")
        if server == entry.current:
            raise ValueError(f"{entry.four_tuple} is already at {server}")
        if entry.closed or entry.stale:
            raise ValueError(f"{entry.four_tuple} is closed")
        if len(server.packed) != len(entry.current.packed):
            raise ValueError(f"{entry.four_tuple} cannot move to {server}: that is another address family")
        route = FourTuple(server, entry.four_tuple.local)
        # A connection of the same client port to that server has both keys; once the ingress one is ours, it takes it.
        for table, four_tuple in ((self._maps.ingress, route), (self._maps.egress, route.reversed)):
            owner = self._lookup(table, layout.tuple_key(four_tuple))
            if owner == entry.index:
                break
            if owner is not None:
                raise ValueError(f"{entry.four_tuple} cannot move to {server}: another connection has {route.reversed}")
        interface = self._interface_to(server, entry)
        new_route = self._add_route(entry, layout.tuple_key(route))
        word = entry.next_attempt << layout.ATTEMPT_SHIFT | entry.word & layout.SLOT_BIT | EntryState.MIGRATING
        following = _Next(server, interface, accept_mac)
        if not self._exchange(entry, word, following):
            if new_route:  # the index may be another connection's by now
                self._routes[entry.index].discard(layout.tuple_key(route))
                loader.map_delete(self._maps.ingress, layout.tuple_key(route))
            raise ValueError(f"{entry.four_tuple} is not what it was when entry {entry.index} was read: read it again")
        return self.entry(entry.index)

    def abort(self, entry: Entry) -> bool:
        """Give up the attempt that `begin` returned: the current server is heard again.

        False if the move was committed already. If not, nothing commits it after this: True, also when it was aborted
        before, or when the connection is gone. What became of one whose entry is another's by now nobody knows: True.
        """
        if entry.state != EntryState.MIGRATING:
            raise ValueError(f"{entry.four_tuple} was {entry.state.name}: abort needs the entry that begin returned")
        if self._exchange(entry, entry.word ^ layout.ABORT_XOR):
            return True
        now = self.entry(entry.index)
        committed = now.word == entry.word ^ layout.COMMIT_XOR or now.committed_at_ns != entry.committed_at_ns
        return not committed or now.cookie != entry.cookie

    def remove(self, entry: Entry) -> None:
        """Forget the connection: its packets pass untouched from now on. Does nothing if it is gone already.

        A moved connection needs its entry as long as anything may come from a server: until a minute after it closed.
        """
        if self.entry(entry.index).cookie != entry.cookie or not self._free(entry):
            return
        routes = self._routes.pop(entry.index, set()) | {layout.tuple_key(entry.four_tuple.reversed)}
        tables = [(self._maps.ingress, key) for key in routes]
        for table, key in [*tables, (self._maps.egress, layout.tuple_key(entry.four_tuple))]:
            if self._lookup(table, key) == entry.index:  # a newer connection may own it
                loader.map_delete(table, key)
        loader.queue_push(self._maps.free, _index_bytes(entry.index))

    # -- server: handshakes --

    def listen(self, port: int) -> None:
        """Offer M-TCP on this port. Call it before the application's listen(2): its socket is asked only then."""
        loader.map_update(self._maps.listeners, _index_bytes(port), _index_bytes(1))

    def unlisten(self, port: int) -> None:
        """New connections to the port are plain TCP, at once."""
        loader.map_delete(self._maps.listeners, _index_bytes(port))

    def accepted(self, four_tuple: FourTuple) -> Accepted | None:
        """The handshake of a connection to a server here (local), None if it was plain TCP."""
        record, key = layout.ACCEPTED, layout.tuple_key(four_tuple)
        value = loader.map_lookup(self._maps.accepted, key, record.SIZE)
        if value is None:
            return None
        return Accepted(
            value[: record.KEY.size], layout.read(value, record.RCV_NXT), layout.read(value, record.SND_NXT)
        )

    def forget(self, four_tuple: FourTuple) -> None:
        """Drop the record; does nothing if there is none. Unforgotten ones make room for new ones, oldest first."""
        loader.map_delete(self._maps.accepted, layout.tuple_key(four_tuple))

    def departed(self, four_tuple: FourTuple) -> None:
        """The connection of a server here (local) has left: drop its late segments, up to the next SYN.

        The oldest ones are forgotten when there are too many, or by `returned`.
        """
        loader.map_update(self._maps.departed, layout.tuple_key(four_tuple.reversed), _index_bytes(1))

    def returned(self, four_tuple: FourTuple) -> None:
        """It is here again; does nothing if it never left."""
        loader.map_delete(self._maps.departed, layout.tuple_key(four_tuple.reversed))

    def refill_keys(self) -> None:
        """Make random keys for as many handshakes as the capacity; without keys, servers here answer plain TCP."""
        while loader.queue_push(self._maps.keys, os.urandom(layout.KEY_LENGTH)):
            pass

    # -- end --

    def close(self) -> None:
        """End this process's use. What is pinned goes on; what is not is detached."""
        self._ring.close()
        self._hosts_routes.close()
        self._memory.release()
        self._mapping.close()
        self._attachment.close()

    def detach(self) -> None:
        """Take programs, maps and pins away: a plain host again. Moved connections break."""
        self._attachment.detach()
        self.close()

    # -- helpers --

    def _interface_to(self, server: Endpoint, entry: Entry) -> int:
        try:
            interface = self._hosts_routes.interface_to(server, entry.four_tuple.local)
        except OSError as error:
            raise ValueError(f"{entry.four_tuple} cannot move to {server}: no route ({error.strerror})") from None
        if interface not in self._attachment.interfaces:
            why = f"it is reached by an interface to which the datapath is not attached: see `ip route get {server.ip}`"
            raise ValueError(f"{entry.four_tuple} cannot move to {server}: {why}")
        return interface

    def _exchange(self, entry: Entry, word: int, following: _Next | None = None) -> bool:
        """The entry's state word becomes `word` if it, and the connection, is still what `entry` says."""
        command = layout.COMMAND
        values: dict[Field, int | bytes] = {
            command.INDEX: entry.index,
            command.EXPECTED: entry.word,
            command.REPLACEMENT: word,
            command.COOKIE: entry.cookie,
        }
        if following is not None:
            values[command.NEXT_ADDRESS] = layout.address_of(following.server)
            values[command.NEXT_PORT] = following.server.port.to_bytes(2, "big")
            values[command.NEXT_INTERFACE] = following.interface
            values[command.ACCEPT_MAC] = following.accept_mac
        context = layout.pack(command.SIZE, values)
        return loader.program_run(self._attachment.transition, context) == transition.DONE

    def _free(self, entry: Entry) -> bool:
        """Set the state FREE, whatever it is; False if the connection is gone."""
        while entry.state != EntryState.FREE:
            if self._exchange(entry, 0):
                return True
            now = self.entry(entry.index)
            if now.cookie != entry.cookie:
                return False
            entry = now
        return False

    def _add_route(self, entry: Entry, key: bytes) -> bool:
        """Let segments with this 4-tuple come to the entry; False if they do already."""
        routes = self._routes.setdefault(entry.index, set())
        if key in routes:
            return False
        try:
            loader.map_update(self._maps.ingress, key, _index_bytes(entry.index))
        except loader.BpfError as error:
            raise DatapathError("no room for more servers: raise the capacity of the datapath") from error
        routes.add(key)
        return True

    def _lookup(self, table: int, key: bytes) -> int | None:
        value = loader.map_lookup(table, key, _INDEX_SIZE)
        return None if value is None else layout.read(value, Field(0, _INDEX_SIZE))


def _entry_of(index: int, memory: bytes) -> Entry:
    def number(field: Field) -> int:
        return layout.read(memory, field)

    def server(slot: int) -> Endpoint:
        base = ENTRY.SERVERS.offset + slot
        return layout.endpoint_of(layout.raw(memory, SERVER.ADDRESS, base), layout.raw(memory, SERVER.PORT, base))

    word, flags = number(ENTRY.WORD), EntryFlag(number(ENTRY.FLAGS))
    state, slot = EntryState(word & layout.STATE_MASK), word & layout.SLOT_BIT
    return Entry(
        index=index,
        four_tuple=layout.tuple_of(layout.raw(memory, ENTRY.SOCKET)),
        current=server(slot),
        next=server(slot ^ layout.SLOT_BIT) if state == EntryState.MIGRATING else None,
        state=state,
        closed=EntryFlag.CLOSED in flags,
        stale=EntryFlag.STALE in flags,
        key=layout.raw(memory, ENTRY.KEY),
        attempt=word >> layout.ATTEMPT_SHIFT,
        rcv_nxt=number(ENTRY.RCV_NXT),
        snd_nxt=number(ENTRY.SND_NXT),
        window=number(ENTRY.WINDOW),
        rcv_start=number(ENTRY.RCV_START),
        seq_max=layout.read(memory, SERVER.SEQ_MAX, ENTRY.SERVERS.offset + slot),
        tcp_flags=number(ENTRY.TCP_FLAGS),
        last_seen_ns=number(ENTRY.LAST_SEEN),
        committed_at_ns=number(ENTRY.COMMITTED_AT),
        cookie=number(ENTRY.COOKIE),
        word=word,
        memory=memory,
    )


def _index_bytes(value: int) -> bytes:
    return layout.pack(_INDEX_SIZE, {Field(0, _INDEX_SIZE): value})
