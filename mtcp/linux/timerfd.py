"""A timer that is a descriptor (timerfd_create(2)): it becomes readable, and so wakes whatever event loop there is."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time

_libc = ctypes.CDLL(None, use_errno=True)


class Timer:
    """Goes off once after each `start`."""

    def __init__(self) -> None:
        """OSError when the process has no descriptors left."""
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def fileno(self) -> int:
        """Readable from when it has gone off until `stop` or `start`."""
        return int(self._fd)

    def start(self, seconds: float) -> None:
        """Go off in so many seconds, and not when it was to before."""
        self._set(max(1e-9, seconds))

    def stop(self) -> None:
        self._set(0.0)

    def _set(self, seconds: float) -> None:
        whole = int(seconds)
        setting = struct.pack("@4l", 0, 0, whole, int((seconds - whole) * 1e9))
        _libc.timerfd_settime(self._fd, 0, setting, None)
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        os.close(self._fd)
