"""The connection's chunk of memory, as the library and the agent use it."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtcp import capsule as module
from mtcp.address import Endpoint
from mtcp.capsule import Capsule, CapsuleError, Fence, Handover, Origins, Record, Snapshot

pytestmark = pytest.mark.unit
STATE_MAX = 32
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@pytest.fixture
def capsule() -> Iterator[Capsule]:
    made = Capsule.create(log_size=16, state_max=STATE_MAX)
    yield made
    made.close()


def receive(capsule: Capsule, data: bytes) -> None:
    """As the library does when the kernel has `data`."""
    while data:
        space = capsule.log_space(len(data))
        if not space:
            return capsule.read_past_log(len(data))
        n = len(space)
        space[:], data = data[:n], data[n:]
        capsule.logged(n)


def agent_view(capsule: Capsule) -> Capsule:
    """Mapped once more, as the agent does with the descriptor it is sent."""
    return Capsule(os.open(f"/proc/self/fd/{capsule.fd}", os.O_RDWR | os.O_CLOEXEC))


def test_fresh(capsule: Capsule) -> None:
    assert capsule.snapshot() == Snapshot(b"", 0, 0)
    assert capsule.fence is Fence.OPEN
    assert not capsule.overflowed
    assert capsule.read_log(0, 0) == b""
    assert not os.get_inheritable(capsule.fd)


def test_both_sides_see_the_same(capsule: Capsule) -> None:
    agent = agent_view(capsule)
    receive(capsule, b"hello")
    capsule.write_offset = 1 << 40
    capsule.swallow = 3
    capsule.export(b"state")
    agent.fence = Fence.FENCED
    assert agent.id == capsule.id
    assert agent.snapshot() == Snapshot(b"state", 5, (1 << 40) - 3)
    assert capsule.fence is Fence.FENCED
    assert (agent.log_size, agent.state_max) == (16, STATE_MAX)
    agent.close()


# -- the read log


def test_ring_wraps(capsule: Capsule) -> None:
    receive(capsule, b"0123456789")
    capsule.export(b"")
    assert len(capsule.log_space(100)) == 6  # up to the ring's end; the rest comes with the next call
    receive(capsule, b"abcdefghij")
    assert capsule.read_log(10, 20) == b"abcdefghij"
    assert capsule.read_log(15, 17) == b"fg"
    assert not capsule.overflowed


def test_export_drops_the_log_before_it(capsule: Capsule) -> None:
    receive(capsule, b"0" * 16)
    assert not capsule.log_space(1)
    capsule.export(b"here")
    assert len(capsule.log_space(100)) == 16
    assert capsule.snapshot() == Snapshot(b"here", 16, 0)


def test_held_until_the_next_export(capsule: Capsule) -> None:
    agent = agent_view(capsule)
    capsule.ended = 1
    capsule.export(b"busy", held=True)
    assert agent.snapshot() == Snapshot(b"busy", 0, 0, ended=True, held=True)
    capsule.export(b"idle")
    assert agent.snapshot() == Snapshot(b"idle", 0, 0, ended=True)
    agent.close()


def test_overflow_until_the_next_export(capsule: Capsule) -> None:
    receive(capsule, b"0" * 16)
    assert not capsule.overflowed
    receive(capsule, b"1")
    assert capsule.overflowed and capsule.read_offset == 17
    assert not capsule.log_space(1)  # the log is of no use any more
    capsule.export(b"")
    assert not capsule.overflowed
    receive(capsule, b"23")
    assert capsule.read_log(17, 19) == b"23"


@given(st.lists(st.binary(max_size=20) | st.none(), max_size=30), st.integers(0, 1 << 40))
def test_log_holds_what_was_read_since_the_export(steps: list[bytes | None], start: int) -> None:
    """None exports. The stream may have begun long ago."""
    capsule = Capsule.create(log_size=16, state_max=STATE_MAX)
    capsule.read_offset = start
    capsule.put_snapshot(Snapshot(b"", start, 0))
    since = b""
    for step in steps:
        if step is None:
            capsule.export(b"")
            since = b""
        else:
            receive(capsule, step)
            since += step
        assert capsule.overflowed == (len(since) > 16)
        if not capsule.overflowed:
            assert capsule.read_log(capsule.snapshot().rcv_offset, capsule.read_offset) == since
    capsule.close()


# -- exporting


def test_state_of_every_length_up_to_the_bound(capsule: Capsule) -> None:
    for length in (0, 1, STATE_MAX, 5):
        capsule.export(b"s" * length)
        assert capsule.snapshot().state == b"s" * length
    with pytest.raises(ValueError, match="33 bytes"):
        capsule.export(b"s" * (STATE_MAX + 1))
    assert capsule.snapshot().state == b"s" * 5


class _Deadly:
    """The header's slot number, at whose change its process dies."""

    def __init__(self, field: module._Field) -> None:
        self._field = field

    def __get__(self, capsule: Capsule, owner: type) -> int:
        return self._field.__get__(capsule, owner)

    def __set__(self, capsule: Capsule, value: int) -> None:
        raise KeyboardInterrupt


class Dying(Capsule):
    """Of an application that dies before it flips the slots."""

    _current = _Deadly(Capsule.__dict__["_current"])


def test_a_half_written_export_is_not_seen(capsule: Capsule) -> None:
    """The export before it stays whole, offsets and all."""
    receive(capsule, b"abc")
    capsule.export(b"first")
    receive(capsule, b"def")
    dying = Dying(os.dup(capsule.fd))
    with pytest.raises(KeyboardInterrupt):
        dying.export(b"second")
    dying.close()
    assert capsule.snapshot() == Snapshot(b"first", 3, 0)
    assert capsule.read_log(3, 6) == b"def"


class Race:
    """The two sides' steps as an export and a move meet (PROTOCOL.md: fenced -> wait, else write and flip)."""

    def __init__(self) -> None:
        self.library = Capsule.create(log_size=16, state_max=STATE_MAX)
        self.agent = agent_view(self.library)
        self.shipped = b""
        self.waits = False

    def exporting(self) -> list[Callable[[], None]]:
        return [self._look, self._flip, self._look]

    def moving(self) -> list[Callable[[], None]]:
        return [self._set_fence, self._read_slot]

    def _look(self) -> None:
        self.waits = self.waits or self.library.fence is not Fence.OPEN

    def _flip(self) -> None:
        if not self.waits:
            self.library.export(b"new")

    def _set_fence(self) -> None:
        self.agent.fence = Fence.FENCED

    def _read_slot(self) -> None:
        self.shipped = self.agent.snapshot().state


def test_either_the_agent_ships_an_export_or_the_export_waits() -> None:
    """In every order of the steps."""
    seen = set()
    for places in combinations(range(5), 2):
        race = Race()
        moving, exporting = iter(race.moving()), iter(race.exporting())
        for step in range(5):
            next(moving if step in places else exporting)()
        assert race.shipped == b"new" or race.waits, places
        seen.add((race.shipped, race.waits))
        race.agent.close()
        race.library.close()
    assert seen == {(b"new", False), (b"new", True), (b"", True)}


# -- the lock


def blocks(action: Callable[[], None]) -> bool:
    """Whether `action`, in a thread, has to wait; it goes on afterwards."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(0.05)
    return thread.is_alive()


def take(capsule: Capsule) -> None:
    with capsule.lock():
        pass


def test_lock_excludes_threads_and_other_openers(capsule: Capsule) -> None:
    other = agent_view(capsule)
    with capsule.lock():
        assert blocks(lambda: take(capsule))
        assert blocks(lambda: take(other))
    take(other)
    take(capsule)
    # Closing it would race with the threads above.


def child(run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)  # nothing outlives a test that fails
        try:
            run()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def test_lock_excludes_a_forked_child(capsule: Capsule) -> None:
    """The child shares the connection, but not the lock."""
    reads, writes = os.pipe()

    def locked() -> None:
        with capsule.lock():
            capsule.export(b"child")
            os.write(writes, b"x")
            signal.pause()

    pid = child(locked)
    os.read(reads, 1)
    assert capsule.snapshot().state == b"child"
    assert blocks(lambda: take(capsule))
    os.kill(pid, signal.SIGKILL)  # the lock is freed by its holder's death
    os.waitpid(pid, 0)
    take(capsule)


def test_lock_of_a_dead_parent_is_free_for_its_child(capsule: Capsule) -> None:
    reads, writes = os.pipe()

    def parent() -> None:
        to_child, from_parent = os.pipe()

        def orphan() -> None:
            os.read(to_child, 1)  # its own copy of from_parent is closed first
            take(capsule)
            os.write(writes, b"free")

        pid = os.fork()
        if pid == 0:
            signal.alarm(5)
            os.close(from_parent)
            orphan()
            os._exit(0)
        with capsule.lock():
            os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(child(parent), 0)
    os.close(writes)
    assert os.read(reads, 4) == b"free"  # b"" once the child has waited too long


# -- what is not a capsule


def memfd(contents: bytes, seals: int = SEALS) -> int:
    fd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.write(fd, contents)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def header(magic: bytes = b"MTCPCAPS", version: int = 1, log_size: int = 16, state_max: int = 32) -> bytes:
    return (magic + struct.pack("=IIIIII", version, 0, 0, 0, log_size, state_max)).ljust(4096 + 2 * 32 + 16, b"\0")


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"MTCPCAPS",
        header()[:4095],
        header()[:-1],
        header() + b"\0",
        header(magic=b"MTCPCAPT"),
        header(version=2),
        header(log_size=0, state_max=40),
        header(log_size=0xFFFFFFFF),
        header(state_max=0xFFFFFFFF),
    ],
    ids=["empty", "cut", "no page", "short", "long", "magic", "version", "no log", "log", "state"],
)
def test_not_a_capsule(contents: bytes) -> None:
    fd = memfd(contents)
    with pytest.raises(CapsuleError):
        Capsule(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)  # it is the capsule's to close, also then


def test_a_right_header() -> None:
    Capsule(memfd(header())).close()


@pytest.mark.parametrize("seals", [0, SEALS & ~fcntl.F_SEAL_SHRINK, SEALS & ~fcntl.F_SEAL_GROW])
def test_unsealed(seals: int) -> None:
    """Whoever could shrink it would kill the agent by SIGBUS."""
    with pytest.raises(CapsuleError, match="sealed"):
        Capsule(memfd(header(), seals))


def test_not_a_memfd() -> None:
    with pytest.raises(CapsuleError):
        Capsule(os.open("/dev/null", os.O_RDWR))


def test_sealed_by_create(capsule: Capsule) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(capsule.fd, 1)


# -- a hostile application behind an honest agent


def test_length_of_a_slot_out_of_range(capsule: Capsule) -> None:
    struct.pack_into("=I", capsule.memory, 128, STATE_MAX + 1)
    with pytest.raises(CapsuleError, match="33 bytes"):
        capsule.snapshot()


def test_slot_number_out_of_range(capsule: Capsule) -> None:
    struct.pack_into("=I", capsule.memory, 16, 0xFFFFFFFE)
    assert capsule.snapshot() == Snapshot(b"", 0, 0)


@pytest.mark.parametrize(("start", "end"), [(0, 17), (5, 4), (1 << 63, 0), (0, 1 << 63)])
def test_log_out_of_range(capsule: Capsule, start: int, end: int) -> None:
    with pytest.raises(CapsuleError):
        capsule.read_log(start, end)


def test_sizes_that_change_later(capsule: Capsule) -> None:
    """A size of zero would divide by it, a larger one would read beyond the log."""
    receive(capsule, b"abc")
    for size in (0, 1 << 20):
        struct.pack_into("=II", capsule.memory, 24, size, size)
        assert capsule.read_log(0, 3) == b"abc"
        with pytest.raises(CapsuleError):
            capsule.read_log(0, 17)


def test_close_frees_all() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        Capsule.create(16, 16).close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# -- the agent's part


def test_the_next_agent_reads_what_this_one_has_written(capsule: Capsule) -> None:
    assert capsule.record is None
    record = Record(b"8 bytes!", Origins(1, 2, 0xFFFFFFFF, -(1 << 40)), 3)
    capsule.attempt, capsule.taken, capsule.ends, capsule.record = 0xFFFFFF, 1, 3, record
    for server in (Endpoint("10.0.0.2", 80), Endpoint("2001:db8::2", 65535)):
        capsule.handover = Handover(server, 0xFFFFFF, 0xFFFFFFFF, b"the tag!")
        agent = agent_view(capsule)
        assert (agent.record, agent.attempt, agent.taken, agent.ends) == (record, 0xFFFFFF, 1, 3)
        assert agent.handover == Handover(server, 0xFFFFFF, 0xFFFFFFFF, b"the tag!")
        assert (agent.fence, agent.snapshot()) == (Fence.OPEN, Snapshot(b"", 0, 0))
        agent.close()


def test_what_is_parked(capsule: Capsule) -> None:
    assert capsule.parked() == b""
    capsule.park(b"sixteen bytes it")
    assert capsule.parked() == b"sixteen bytes it"
    with pytest.raises(CapsuleError, match="17 bytes do not fit"):
        capsule.park(bytes(17))


@pytest.mark.parametrize(
    ("at", "value", "read"),
    [
        (256, b"\2", lambda c: c.record),
        (12, b"\3", lambda c: c.fence),
        (312, b"\x11", lambda c: c.parked()),
        (330, b"\5", lambda c: c.handover),
        (328, b"\0\0", lambda c: c.handover),
    ],
    ids=["record of a later version", "fence", "parked length", "address length", "port 0"],
)
def test_what_an_application_may_write_there(
    capsule: Capsule, at: int, value: bytes, read: Callable[[Capsule], object]
) -> None:
    capsule.record = Record(bytes(8), Origins(0, 0, 0, 0), 0)
    capsule.handover = Handover(Endpoint("10.0.0.2", 80), 1, 0, bytes(8))
    capsule.memory[at : at + len(value)] = value
    with pytest.raises(CapsuleError):
        read(capsule)
