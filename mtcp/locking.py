"""A lock between all who share a file description's file: this process's threads, and other processes."""

from __future__ import annotations

import fcntl
import os
import struct
import threading

_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_UNLOCK = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0)


class Lock:
    """A mutex, and inside it an open-file-description lock: the death of its holder frees it.

    No generator of contextlib's, which is slower: whatever an application does with a connection takes it.
    """

    def __init__(self, fd: int) -> None:
        """Of the file that `fd` refers to, which must be opened anew after fork(2)."""
        self.fd = fd
        """-1: it has been closed, and there is nothing to lock."""
        self.mutex = threading.Lock()

    def __enter__(self) -> None:
        self.mutex.acquire()
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLKW, _LOCK)
        except BaseException:
            self.mutex.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, _UNLOCK)
        finally:
            self.mutex.release()
