"""The connection's chunk of memory, shared by the application's library and the agent (a memfd).

    0        header: fence, current slot, stream offsets
    128      two slot headers: length of the state, and where in the two streams it belongs
    256      the agent's: what another agent of this host must know to go on when this one has ended
    4096     slot 0 | slot 1 | read log (a ring: the byte with stream offset o lies at o mod its size)

The library writes, the agent reads; only the fence and the agent's part go the other way. The agent never waits for
a lock that an application holds: it sets the fence first and reads the current slot then, while the library flips the
slot first and looks at the fence then, so either the agent ships an export or the export waits for the outcome.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import weakref
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from mtcp.address import Endpoint, unpack_ip
from mtcp.locking import Lock

MAGIC = b"MTCPCAPS"
VERSION = 1
LOG_SIZE = 1 << 20
STATE_MAX = 1 << 20
SIZE_MAX = 1 << 30
"""Bytes that the log, or a state, may be set to hold."""
_HEADER_END = 4096
_HEAD = struct.Struct("=8sI12xII")
_READING_AT, _READING = 16, struct.Struct("=I12xQ")
_OFFSETS_AT, _OFFSETS = 32, struct.Struct("=QQQI")
"""Fields that are read together, for every call of the application does."""
_SLOT = struct.Struct("=IIQQ")
_SLOT_AT = (128, 160)
_RECORD_VERSION = 1
_RECORD_AT, _RECORD = 264, struct.Struct("=8sIIIIq")
_HANDOVER_AT, _HANDOVER = 320, struct.Struct("=IIHB1x16s8s")
_ENDED, _HELD = 1, 2
"""Bits of a slot's second word."""
CLIENT_ENDED, TO_END = 1, 2
"""Of a connection taken: another server had the client's FIN; ours follows what is parked."""
_OPEN = bytes(4)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Fence(IntEnum):
    """May the application act for the connection?"""

    OPEN = 0
    FENCED = 1
    MIGRATED = 2


@dataclass(frozen=True)
class Snapshot:
    """An exported state and the stream offsets it belongs to."""

    state: bytes
    rcv_offset: int
    snd_offset: int
    ended: bool = False
    """Whether the application had ended its output."""
    held: bool = False
    """Whether the connection stays where it is as long as its application lives."""


class Origins(NamedTuple):
    """Where the streams' offsets, the socket's counters and sequence numbers meet."""

    rcv: int
    """Sequence number of the client's byte with offset 0; the socket counts from it as well."""
    snd: int
    """Sequence number of our byte with offset 0."""
    snd_start: int
    """The first sequence number that this socket sends."""
    snd_start_offset: int
    """Its offset: not 0, and perhaps negative, in a socket that was restored."""


@dataclass(frozen=True)
class Record:
    """What the agent knows of the connection as long as its socket lives."""

    key: bytes
    origins: Origins
    moves: int
    """How often it had moved when it came here."""


@dataclass(frozen=True)
class Handover:
    """A move that is not decided: the connection is fenced for `server`, or was taken from it."""

    server: Endpoint
    attempt: int
    rcv_nxt: int
    """The client's, as it was told with the attempt."""
    tag: bytes
    """The MAC of the client's MIGRATE."""


class CapsuleError(ValueError):
    """The memory is not a capsule, or its contents contradict themselves."""


class TooLarge(CapsuleError):
    """What is asked for is larger than the asker takes."""


def _sizes(fd: int) -> tuple[int, int]:
    """Those of the read log and of a slot; CapsuleError unless `fd` is a sealed capsule of just these."""
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise CapsuleError("a capsule is a memfd") from None
    if seals & _SEALS != _SEALS:
        raise CapsuleError("a capsule must be sealed against resizing")
    size = os.fstat(fd).st_size
    if size < _HEADER_END:
        raise CapsuleError("too small for an M-TCP capsule")
    magic, version, log_size, state_max = _HEAD.unpack(os.pread(fd, _HEAD.size, 0))
    if (magic, version) != (MAGIC, VERSION) or not log_size or size != _HEADER_END + 2 * state_max + log_size:
        raise CapsuleError(f"not an M-TCP capsule of version {VERSION}")
    return log_size, state_max


class _Field:
    """An integer of the header at a fixed offset."""

    def __init__(self, offset: int, code: str) -> None:
        # The machine's own format: one store, so that whoever dies has written all of it or nothing.
        self._offset, self._layout = offset, struct.Struct("@" + code)

    def __get__(self, capsule: Capsule, owner: type) -> int:
        value: int = self._layout.unpack_from(capsule.memory, self._offset)[0]
        return value

    def __set__(self, capsule: Capsule, value: int) -> None:
        self._layout.pack_into(capsule.memory, self._offset, value)


class Capsule:
    """A mapped capsule; both sides use this class."""

    _fence = _Field(12, "I")
    _current = _Field(16, "I")
    _overflow = _Field(20, "I")
    read_offset = _Field(32, "Q")
    """Stream offset of the next byte that the application reads from the kernel."""
    write_offset = _Field(40, "Q")
    """Stream offset of the next byte that it writes into the kernel."""
    swallow = _Field(48, "Q")
    """Bytes of its next output that the client has already: not to be written."""
    _recorded = _Field(256, "I")
    attempt = _Field(260, "I")
    """The last attempt to move that is decided, one way or the other."""
    taken = _Field(308, "I")
    """1: the handover is one to this server, and the client has not been heard yet."""
    _parked = _Field(312, "Q")
    ends = _Field(356, "I")
    """Bits: CLIENT_ENDED, TO_END."""
    ended = _Field(56, "I")
    """1: the application has ended its output."""

    def __init__(self, fd: int) -> None:
        """Map the memfd `fd`, which this object then owns; CapsuleError when it is not a capsule."""
        try:
            # Read once: whoever shares the memory may change the header, but not the sizes that are reckoned with.
            self.log_size, self.state_max = _sizes(fd)
            self.memory = mmap.mmap(fd, 0)
        except BaseException:
            os.close(fd)
            raise
        self.fd = fd
        self._lock = Lock(fd)
        self._log_at = _HEADER_END + 2 * self.state_max
        _mapped.add(self)

    @classmethod
    def create(cls, log_size: int = LOG_SIZE, state_max: int = STATE_MAX) -> Capsule:
        """A fresh capsule: an empty snapshot at the first byte of both streams. Sizes in bytes."""
        fd = os.memfd_create("mtcp-capsule", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, _HEADER_END + 2 * state_max + log_size)
        os.pwrite(fd, _HEAD.pack(MAGIC, VERSION, log_size, state_max), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return cls(fd)

    @property
    def id(self) -> int:
        """The same for both sides, and different between connections (the memfd's inode)."""
        return os.fstat(self.fd).st_ino

    @property
    def fence(self) -> Fence:
        """CapsuleError when the application has written something else there."""
        try:
            return Fence(self._fence)
        except ValueError:
            raise CapsuleError(f"fence {self._fence} is none of 0, 1 and 2") from None

    @fence.setter
    def fence(self, value: Fence) -> None:
        self._fence = value

    # -- the agent's

    @property
    def record(self) -> Record | None:
        """None until the agent has attached the connection; CapsuleError when it is of another version."""
        if not self._recorded:
            return None
        if self._recorded != _RECORD_VERSION:
            raise CapsuleError(f"the capsule's record is of version {self._recorded}, this is {_RECORD_VERSION}")
        key, rcv, snd, snd_start, moves, snd_start_offset = _RECORD.unpack_from(self.memory, _RECORD_AT)
        return Record(key, Origins(rcv, snd, snd_start, snd_start_offset), moves)

    @record.setter
    def record(self, value: Record | None) -> None:
        assert value is not None
        o = value.origins
        _RECORD.pack_into(
            self.memory, _RECORD_AT, value.key, o.rcv, o.snd, o.snd_start, value.moves, o.snd_start_offset
        )
        self._recorded = _RECORD_VERSION

    @property
    def handover(self) -> Handover:
        """The last that was written; it means something while the fence is not OPEN, or `taken` is set.

        CapsuleError when it names no server.
        """
        attempt, rcv_nxt, port, length, packed, tag = _HANDOVER.unpack_from(self.memory, _HANDOVER_AT)
        if length not in (4, 16) or not port:
            raise CapsuleError("the capsule names no server to which, or from which, the connection moves")
        return Handover(Endpoint(unpack_ip(packed[:length]), port), attempt, rcv_nxt, tag)

    @handover.setter
    def handover(self, value: Handover) -> None:
        packed = value.server.packed
        numbers = value.attempt, value.rcv_nxt, value.server.port, len(packed)
        _HANDOVER.pack_into(self.memory, _HANDOVER_AT, *numbers, packed, value.tag)

    def park(self, data: bytes) -> None:
        """Keep in the unused log what the socket is to send first, until the fence opens; CapsuleError: too much."""
        if len(data) > self.log_size:
            raise CapsuleError(f"{len(data)} bytes do not fit into a log of {self.log_size}")
        self.memory[self._log_at : self._log_at + len(data)] = data
        self._parked = len(data)

    def parked(self) -> bytes:
        """What `park` has kept; CapsuleError when its length is impossible."""
        if self._parked > self.log_size:
            raise CapsuleError(f"{self._parked} parked bytes in a log of {self.log_size}")
        return self.memory[self._log_at : self._log_at + self._parked]

    @property
    def is_open(self) -> bool:
        """Whether the fence is OPEN; cheaper to ask, for every call of the application asks it twice."""
        return self.memory[12:16] == _OPEN

    def lock(self) -> Lock:
        """Excludes other threads and processes that share the connection: to be held while acting for it."""
        return self._lock

    # -- snapshots

    def export(self, state: bytes, held: bool = False) -> None:
        """Record `state` at the present offsets and drop the read log before it. Hold the lock.

        ValueError when the state is larger than the capsule's bound.
        """
        if len(state) > self.state_max:
            raise ValueError(f"state of {len(state)} bytes; listen(state_max=...) allows {self.state_max}")
        read, written, swallow, ended = _OFFSETS.unpack_from(self.memory, _OFFSETS_AT)
        self._put(state, read, written - swallow, (_ENDED if ended else 0) | (_HELD if held else 0))
        self._overflow = 0

    def put_snapshot(self, snapshot: Snapshot) -> None:
        """Write into the slot that is not current, then flip."""
        bits = snapshot.ended * _ENDED | snapshot.held * _HELD
        self._put(snapshot.state, snapshot.rcv_offset, snapshot.snd_offset, bits)

    def _put(self, state: bytes, rcv_offset: int, snd_offset: int, bits: int) -> None:
        slot = 1 - (self._current & 1)
        at = _HEADER_END + slot * self.state_max
        self.memory[at : at + len(state)] = state
        _SLOT.pack_into(self.memory, _SLOT_AT[slot], len(state), bits, rcv_offset, snd_offset)
        self._current = slot

    def snapshot(self, largest: int | None = None) -> Snapshot:
        """The current snapshot; CapsuleError when its length is impossible, TooLarge when it is over `largest`."""
        slot = self._current & 1
        length, bits, rcv_offset, snd_offset = _SLOT.unpack_from(self.memory, _SLOT_AT[slot])
        if length > self.state_max:
            raise CapsuleError(f"state of {length} bytes in a slot of {self.state_max}")
        if largest is not None and length > largest:
            raise TooLarge(f"state of {length} bytes, at most {largest} travel")
        at = _HEADER_END + slot * self.state_max
        state = self.memory[at : at + length]
        return Snapshot(state, rcv_offset, snd_offset, bool(bits & _ENDED), bool(bits & _HELD))

    # -- the read log

    @property
    def overflowed(self) -> bool:
        """Whether bytes read since the snapshot have been lost, so that it is not enough to go on from."""
        return bool(self._overflow)

    def log_space(self, n: int) -> memoryview:
        """Where up to `n` of the next bytes from the kernel belong: contiguous, perhaps shorter than `n`.

        Empty when the log is full.
        """
        current, offset = _READING.unpack_from(self.memory, _READING_AT)
        exported: int = _SLOT.unpack_from(self.memory, _SLOT_AT[current & 1])[2]
        free = self.log_size - (offset - exported)
        at = offset % self.log_size
        length = max(0, min(n, free, self.log_size - at))
        start = self._log_at + at
        return memoryview(self.memory)[start : start + length]

    def logged(self, n: int) -> None:
        """`n` bytes have been read into `log_space`."""
        self.read_offset += n

    def read_past_log(self, n: int) -> None:
        """`n` bytes have been read elsewhere: until the next export the connection cannot move."""
        self._overflow = 1
        self.read_offset += n

    def read_log(self, start: int, end: int) -> bytes:
        """The logged bytes with stream offsets [start, end); CapsuleError when the log cannot hold them."""
        if not 0 <= end - start <= self.log_size:
            raise CapsuleError(f"read log of {end - start} bytes in a ring of {self.log_size}")
        first, last = start % self.log_size, end % self.log_size
        at = self._log_at
        if first + (end - start) <= self.log_size:
            return self.memory[at + first : at + first + (end - start)]
        return self.memory[at + first : at + self.log_size] + self.memory[at : at + last]

    def close(self) -> None:
        """Unmap, and close the descriptor; waits for another thread's call to return, and fails its next one."""
        with self._lock.mutex:
            self._lock.fd = -1
            _mapped.discard(self)
            self.memory.close()
            os.close(self.fd)
            self.fd = -1

    def _open_anew(self) -> None:
        """In a forked child: a lock, and a mutex, of its own.

        What fork passes on is the parent's open file description, which mmap holds too: it would share the lock with
        the parent instead of excluding it, and outlive the parent with the lock held.
        """
        fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(fd, self.fd, inheritable=False)
        os.close(fd)
        self.memory = mmap.mmap(self.fd, 0)
        self._lock = Lock(self.fd)


_mapped: weakref.WeakSet[Capsule] = weakref.WeakSet()


def _after_fork() -> None:
    for capsule in list(_mapped):
        capsule._open_anew()


os.register_at_fork(after_in_child=_after_fork)
