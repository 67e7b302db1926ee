"""The bpf(2) system call: maps, programs, links, pins. linux/bpf.h (union bpf_attr) is the source of all numbers."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)
_SYSCALL = 321 if platform.machine() == "x86_64" else 280  # 280: the generic table (arm64, riscv64)
_ATTR_SIZE = 144  # zeros beyond what a kernel knows are accepted by it
_LOG_SIZE = 1 << 20
_LOG_TAIL = 1500  # characters of the verifier's log worth showing: the reason is at the end
_BPFFS_MAGIC = 0xCAFE4A11
_CGROUP2_MAGIC = 0x63677270
ANY = 0  # update flag: create or replace


class Command(IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    MAP_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_RUN = 10
    OBJ_INFO = 15
    MAP_LOOKUP_AND_DELETE = 21
    LINK_CREATE = 28
    LINK_DETACH = 34


class MapType(IntEnum):
    HASH = 1
    ARRAY = 2
    LRU_HASH = 9
    QUEUE = 22
    RINGBUF = 27


class ProgramType(IntEnum):
    SOCKET_FILTER = 1
    SCHED_CLS = 3
    SOCK_OPS = 13
    SYSCALL = 31


class AttachType(IntEnum):
    NONE = 0
    SOCK_OPS = 3
    TCX_INGRESS = 46
    TCX_EGRESS = 47


MMAPABLE = 1 << 10  # map flag
SLEEPABLE = 1 << 4  # program flag; programs of type SYSCALL need it


class BpfError(OSError):
    """bpf(2) refused. `errno` is the kernel's; the text names the operation, for programs with the end of the log."""


class MapInfo(NamedTuple):
    type: int
    key_size: int
    value_size: int
    max_entries: int
    name: str


def _bpf(command: Command, attributes: bytes, what: str) -> tuple[int, bytes]:
    """Result and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(attributes, _ATTR_SIZE)
    result: int = _libc.syscall(_SYSCALL, int(command), buffer, _ATTR_SIZE)
    if result < 0:
        number = ctypes.get_errno()
        raise BpfError(number, f"{what}: {os.strerror(number)}")
    return result, buffer.raw


class _Buffer:
    """Bytes at a fixed address for the kernel to read or fill."""

    def __init__(self, content: bytes | int) -> None:
        self._memory = ctypes.create_string_buffer(content, len(content) if isinstance(content, bytes) else content)
        self.address = ctypes.addressof(self._memory)

    @property
    def content(self) -> bytes:
        return self._memory.raw


# -- maps --


def map_create(kind: MapType, key_size: int, value_size: int, max_entries: int, name: str, flags: int = 0) -> int:
    """File descriptor of a new map; `name` of at most 15 letters, digits and _ is what bpftool shows."""
    attributes = struct.pack("=IIIIIII16s", kind, key_size, value_size, max_entries, flags, 0, 0, name.encode()[:15])
    return _bpf(Command.MAP_CREATE, attributes, f"create map {name}")[0]


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value under `key`, None if there is none."""
    key_buffer, value = _Buffer(key), _Buffer(value_size)
    try:
        _bpf(Command.MAP_LOOKUP, struct.pack("=IIQQQ", fd, 0, key_buffer.address, value.address, 0), "look up")
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.content


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Create or replace. BpfError with E2BIG when the map is full."""
    key_buffer, value_buffer = _Buffer(key), _Buffer(value)
    _bpf(Command.MAP_UPDATE, struct.pack("=IIQQQ", fd, 0, key_buffer.address, value_buffer.address, ANY), "update map")


def map_delete(fd: int, key: bytes) -> bool:
    """Delete; False if there was no such key."""
    key_buffer = _Buffer(key)
    try:
        _bpf(Command.MAP_DELETE, struct.pack("=IIQ", fd, 0, key_buffer.address), "delete from map")
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def map_keys(fd: int, key_size: int) -> Iterator[bytes]:
    """All keys; those that come or go meanwhile may be missed, and if one goes, some may come twice."""
    previous: _Buffer | None = None
    while True:
        following = _Buffer(key_size)
        address = previous.address if previous else 0
        try:
            _bpf(Command.MAP_NEXT_KEY, struct.pack("=IIQQ", fd, 0, address, following.address), "next key")
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield following.content
        previous = following


def queue_push(fd: int, value: bytes) -> bool:
    """Append to a queue; False when it is full."""
    buffer = _Buffer(value)
    try:
        _bpf(Command.MAP_UPDATE, struct.pack("=IIQQQ", fd, 0, 0, buffer.address, ANY), "push")
    except BpfError as error:
        if error.errno == errno.E2BIG:
            return False
        raise
    return True


def queue_pop(fd: int, value_size: int) -> bytes | None:
    """Take the oldest value of a queue; None when it is empty."""
    buffer = _Buffer(value_size)
    try:
        _bpf(Command.MAP_LOOKUP_AND_DELETE, struct.pack("=IIQQQ", fd, 0, 0, buffer.address, 0), "pop")
    except BpfError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return buffer.content


def map_info(fd: int) -> MapInfo:
    """What kind of map this is."""
    info = _object_info(fd, 88)
    kind, _, key_size, value_size, max_entries, _ = struct.unpack_from("=6I", info)
    return MapInfo(kind, key_size, value_size, max_entries, info[24:40].rstrip(b"\0").decode())


# -- programs --


def program_load(
    kind: ProgramType, code: bytes, name: str, attach: AttachType = AttachType.NONE, flags: int = 0
) -> int:
    """File descriptor of a verified program. BpfError carries the end of the verifier's log."""
    instructions, license_name, log = _Buffer(code), _Buffer(b"GPL\0"), _Buffer(_LOG_SIZE)

    def attributes(verbose: bool) -> bytes:
        log_part = (1, _LOG_SIZE, log.address) if verbose else (0, 0, 0)
        count = len(code) // 8
        head = struct.pack("=IIQQIIQ", kind, count, instructions.address, license_name.address, *log_part)
        return head + struct.pack("=II16sII", 0, flags, name.encode()[:15], 0, attach)

    try:
        return _bpf(Command.PROG_LOAD, attributes(False), f"load program {name}")[0]
    except BpfError as error:
        if error.errno == errno.EPERM:
            raise
    try:  # again for the log: writing it costs time
        return _bpf(Command.PROG_LOAD, attributes(True), f"load program {name}")[0]
    except BpfError as error:
        reason = log.content.rstrip(b"\0").decode(errors="replace")[-_LOG_TAIL:]
        raise BpfError(error.errno, f"{error.strerror}\n{reason}") from None


def program_run(fd: int, context: bytes) -> int:
    """Run a program of type SYSCALL once on `context`; what it returns."""
    buffer = _Buffer(context)
    attributes = struct.pack("=IIIIQQIIIIQQ", fd, 0, 0, 0, 0, 0, 0, 0, len(context), 0, buffer.address, 0)
    _, after = _bpf(Command.PROG_RUN, attributes, "run program")
    value: int = struct.unpack_from("=I", after, 4)[0]
    return value


# -- links --


def link_create(program: int, target: int, attach: AttachType) -> int:
    """Attach for as long as the returned descriptor (or a pin) exists; `target`: interface index or cgroup fd."""
    return _bpf(Command.LINK_CREATE, struct.pack("=IIII", program, target, attach, 0), f"attach {attach.name}")[0]


def link_detach(fd: int) -> None:
    """Take the program away now, whoever else holds the link."""
    _bpf(Command.LINK_DETACH, struct.pack("=I", fd), "detach")


def link_target(fd: int) -> int:
    """The interface index or cgroup id that the link is attached to, 0 when that is gone."""
    kind = struct.unpack_from("=I", _object_info(fd, 64))[0]
    value: int = struct.unpack_from("=Q" if kind == 3 else "=I", _object_info(fd, 64), 16)[0]  # 3: a cgroup link
    return value


# -- pins --


def pin(fd: int, path: Path) -> None:
    """Give the object a name in a BPF file system; it lives as long as the name. Names have no dots."""
    name = _Buffer(os.fsencode(path) + b"\0")
    _bpf(Command.OBJ_PIN, struct.pack("=QII", name.address, fd, 0), f"pin {path}")


def open_pin(path: Path) -> int:
    """Descriptor of a pinned object. BpfError with ENOENT if there is none."""
    name = _Buffer(os.fsencode(path) + b"\0")
    return _bpf(Command.OBJ_GET, struct.pack("=QII", name.address, 0, 0), f"open {path}")[0]


def is_bpffs(path: Path) -> bool:
    """Whether `path`, which must exist, is in a BPF file system."""
    return _file_system(path) == _BPFFS_MAGIC


def is_cgroup2(path: Path) -> bool:
    """Whether `path`, which must exist, is a cgroup v2 directory."""
    return _file_system(path) == _CGROUP2_MAGIC


def _file_system(path: Path) -> int:
    buffer = ctypes.create_string_buffer(256)  # struct statfs: 120 bytes; its first word is the type
    if _libc.statfs(os.fsencode(path), buffer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    value: int = struct.unpack_from("@l", buffer.raw)[0]
    return value & 0xFFFFFFFF


def _object_info(fd: int, size: int) -> bytes:
    buffer = _Buffer(size)
    _bpf(Command.OBJ_INFO, struct.pack("=IIQ", fd, size, buffer.address), "object info")
    return buffer.content
