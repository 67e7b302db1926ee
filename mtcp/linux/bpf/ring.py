"""Reader of a BPF ring buffer (kernel: kernel/bpf/ringbuf.c): records in shared memory, no system call per record."""

from __future__ import annotations

import mmap
import struct

from mtcp.linux.bpf import loader

_BUSY, _DISCARDED = 1 << 31, 1 << 30  # in a record's header: not complete yet; to be skipped
_HEADER = 8  # u32 length, u32 page offset


class RingBuffer:
    """The only consumer of the map."""

    def __init__(self, fd: int) -> None:
        page = mmap.PAGESIZE
        self._size = loader.map_info(fd).max_entries
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # The producer's page, then the data twice in a row, so that no record is ever split at the end.
        self._producer = mmap.mmap(fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._positions = memoryview(self._producer)[:8].cast("Q"), memoryview(self._consumer)[:8].cast("Q")

    def drain(self) -> list[bytes]:
        """All complete records, oldest first; their room is free again."""
        records = []
        produced, consumed = self._positions
        position = consumed[0]
        while position < produced[0]:
            start = mmap.PAGESIZE + (position & (self._size - 1))
            length = struct.unpack_from("=I", self._producer, start)[0]
            if length & _BUSY:
                break
            data_length = length & ~_DISCARDED
            if not length & _DISCARDED:
                records.append(self._producer[start + _HEADER : start + _HEADER + data_length])
            position += (_HEADER + data_length + 7) & ~7
            consumed[0] = position
        return records

    def close(self) -> None:
        for view in self._positions:
            view.release()
        self._producer.close()
        self._consumer.close()
