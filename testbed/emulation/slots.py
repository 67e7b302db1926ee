"""Many packets with one system call: a ring of slots that recvmmsg fills and sendmmsg empties (Linux, 64 bits).

The same array of headers serves both calls, so what passes through costs no work per packet here.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
from array import array

_PAGE = 4096
SIZE = 17 * _PAGE
"""Bytes of a slot: the largest super-packet (64 KiB), its Ethernet header and the header of its offloads."""
COUNT = 1 << 14
"""Slots of a ring: packets that can be under way in one direction."""
_BATCH, _SENT = 64, 1024  # packets a system call: when receiving, and at most (UIO_MAXIOV)
_MSG_DONTWAIT, _MAP_NORESERVE = 0x40, 0x4000
_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Mmsghdr(ctypes.Structure):
    """struct mmsghdr, with the msghdr in it."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.c_void_p),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("length", ctypes.c_uint32),
        ("padding2", ctypes.c_uint32),
    )


_HEADER = ctypes.sizeof(_Mmsghdr)


class Slots:
    """Packets of one direction, in the order in which they came."""

    def __init__(self) -> None:
        self.head = 0
        """Packets that have come."""
        self.tail = 0
        """Packets that have left, or were lost."""
        self._origin = 0  # the packet with which the first slot was filled when last there were none
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._memory = mmap.mmap(-1, COUNT * SIZE, flags=private)
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)  # most slots hold few bytes of their 17 pages
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._headers = (_Mmsghdr * COUNT)()
        self._iovecs = (_Iovec * COUNT)()
        self._address = ctypes.addressof(self._headers)
        # A field of all slots is a strided array: one assignment copies many.
        iovecs, headers = memoryview(self._iovecs).cast("B"), memoryview(self._headers).cast("B")
        first = ctypes.addressof(self._iovecs)
        iovecs.cast("Q")[::2] = memoryview(array("Q", range(base, base + COUNT * SIZE, SIZE)))
        headers.cast("Q")[_Mmsghdr.iov.offset // 8 :: 8] = memoryview(array("Q", range(first, first + COUNT * 16, 16)))
        headers.cast("Q")[_Mmsghdr.iov_length.offset // 8 :: 8] = memoryview(array("Q", [1]) * COUNT)
        self._received = headers.cast("I")[_Mmsghdr.length.offset // 4 :: 16]
        self._sizes = iovecs.cast("I")[2::4]  # the low half: little-endian
        self._empty = memoryview(array("I", [SIZE]) * COUNT)
        self._sizes[:] = self._empty

    def receive(self, fd: int) -> int:
        """Take packets from the socket; how many: fewer than could be had when there were no more."""
        count = 0
        room = COUNT - (self.head - self.tail)
        if room == COUNT:
            self._origin = self.head  # the same few slots again: their memory is there, and in the processor's cache
        slot = self._slot(self.head)
        room = min(_BATCH, room, COUNT - slot)
        if room > 0:
            at = ctypes.c_void_p(self._address + slot * _HEADER)
            count = max(0, _libc.recvmmsg(fd, at, room, _MSG_DONTWAIT, None))
            self._sizes[slot : slot + count] = self._received[slot : slot + count]
            self.head += count
        return count

    @property
    def full(self) -> bool:
        """Whether there is no room."""
        return self.head - self.tail >= COUNT

    def send(self, fd: int, count: int) -> dict[int, int]:
        """Give the next `count` packets to the socket and free their slots; how many it refused, by errno.

        The errno of a packet that is refused after others were taken is unknown, and counts as ENOBUFS.
        """
        refused: dict[int, int] = {}
        end = self.tail + count
        while self.tail < end:
            slot = self._slot(self.tail)
            at = ctypes.c_void_p(self._address + slot * _HEADER)
            most = min(end - self.tail, COUNT - slot, _SENT)
            sent = _libc.sendmmsg(fd, at, most, _MSG_DONTWAIT)
            if sent < most:  # the next is refused, and not to be tried again: a full queue has dropped it
                number = errno.ENOBUFS if sent > 0 else ctypes.get_errno()
                refused[number] = refused.get(number, 0) + 1
                sent = max(sent, 0) + 1
            self._free(slot, sent)
        return refused

    def drop(self, count: int) -> None:
        """Free the slots of the next `count` packets."""
        while count > 0:
            slot = self._slot(self.tail)
            some = min(count, COUNT - slot)
            self._free(slot, some)
            count -= some

    def _slot(self, number: int) -> int:
        return (number - self._origin) % COUNT

    def _free(self, slot: int, count: int) -> None:
        if sum(self._sizes[slot : slot + count]) > 4 * _PAGE * count:
            # Super-packets: were their pages kept, a ring would come to hold a gigabyte.
            self._memory.madvise(mmap.MADV_DONTNEED, slot * SIZE, count * SIZE)
        self._sizes[slot : slot + count] = self._empty[:count]
        self.tail += count
