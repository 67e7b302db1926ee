"""Network namespaces of other processes: threads enter them, and what is made there stays there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)  # os.setns and os.unshare came with Python 3.12
_T = TypeVar("_T")


def setns(fd: int) -> None:
    """Put the calling thread, and no other, into the network namespace of the descriptor `fd`. OSError."""
    _check(_libc.setns(fd, CLONE_NEWNET), "setns")


def unshare() -> None:
    """Put the calling thread, and no other, into a new network namespace. OSError."""
    _check(_libc.unshare(CLONE_NEWNET), "unshare")


def enter_network_of(pid: int) -> None:
    """Put the calling thread, and no other, into the network namespace of the process `pid`. OSError."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd)
    finally:
        os.close(fd)


def in_thread(make: Callable[[], _T]) -> _T:
    """What `make` returns or raises, called by a thread of its own, which may leave this process's namespace."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
