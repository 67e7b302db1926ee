"""Topologies' scripts at a terminal of their own, as a user has them."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import subprocess
import termios
import time
from types import TracebackType
from typing import Self

from tests.e2e.scripts import ROOT, command

PROMPT = "mininet> "


class Terminal:
    """The script of `topology`; a context manager that kills it."""

    def __init__(self, topology: str, *options: str) -> None:
        self.fd, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*command(topology), *options],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        self.text = ""

    def wait_for(self, pattern: str, timeout: float = 60.0) -> str:
        """What is printed up to and with the regular expression `pattern`."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text, re.MULTILINE)):
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.text!r}"
            self.text += self._read()
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def run(self, line: str) -> str:
        """Type the command `line` at the prompt; what it prints until there is the next one."""
        self.type(f"{line}\n")
        self.wait_for(r"\n")  # the echo
        return self.wait_for(PROMPT).removesuffix(PROMPT)

    def interrupt(self, pattern: str) -> None:
        """Press Ctrl-C until `pattern` is printed.

        Python waits by select() at a prompt: a signal just before that takes effect at the next key only.
        """
        for _ in range(20):
            self.type("\x03")
            try:
                self.wait_for(pattern, timeout=1.5)
                return
            except AssertionError:
                continue
        self.wait_for(pattern)

    def end(self, timeout: float = 30.0) -> int:
        """Read until the script has ended; its exit code."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.02)[0]:
                try:
                    self.text += self._read()
                except AssertionError:
                    break
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self) -> str:
        try:
            return os.read(self.fd, 4096).decode(errors="replace").replace("\r", "")
        except OSError:  # the other end is closed
            raise AssertionError(f"it has ended: {self.text!r}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.fd)
