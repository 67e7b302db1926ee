"""How the agent learns that an application is through with a connection: a pipe whose end the application holds.

fork(2) passes it on; exec(2), exit and death close it. So the pipe ends when the last process that has the connection
is through with it. Whether that was in good order is counted: a process that came by the connection by fork says so,
and one that closes it says that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable

_FORKED, _CLOSED = b"+", b"-"
_PIECE = 4096


class Lifeline:
    """The application's end, in one process."""

    def __init__(self, fd: int) -> None:
        """Owns `fd`."""
        self._file = open(fd, "wb", buffering=0)  # noqa: SIM115

    def forked(self) -> None:
        """This process has it from its parent, which has it as well."""
        self._say(_FORKED)

    def fileno(self) -> int:
        """poll(2) reports an error when no agent watches: it has ended, or let go of the connection."""
        return self._file.fileno()

    @property
    def is_watched(self) -> bool:
        poll = select.poll()
        try:
            poll.register(self._file, 0)
        except ValueError:  # closed
            return True
        return not poll.poll(0)

    def replace(self, fd: int) -> None:
        """Owns `fd`, to another agent, from now on."""
        before, self._file = self._file, open(fd, "wb", buffering=0)  # noqa: SIM115
        before.close()

    def close(self) -> None:
        """This process has closed the connection."""
        if not self._file.closed:
            self._say(_CLOSED)
            self._file.close()

    def __del__(self) -> None:
        """A connection that nobody refers to any more is closed, as a socket is."""
        self.close()

    def _say(self, word: bytes) -> None:
        # The agent may have ended, or know that the connection has left.
        with contextlib.suppress(OSError, ValueError):
            self._file.write(word)


class Watch:
    """The agent's end."""

    def __init__(self, fd: int, on_end: Callable[[bool], None]) -> None:
        """Owns `fd`. `on_end` is called when no process has the connection any more; True: each of them closed it."""
        os.set_blocking(fd, False)
        self._fd = fd
        self._on_end = on_end
        self._holders = 1
        asyncio.get_running_loop().add_reader(fd, self._readable)

    @property
    def is_open(self) -> bool:
        """Whether a process still has the connection."""
        return self._fd >= 0

    def close(self) -> None:
        """Watch no longer."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        try:
            words = os.read(self._fd, _PIECE)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        self._holders += words.count(_FORKED) - words.count(_CLOSED)
        if not words:
            self.close()
            self._on_end(self._holders <= 0)
