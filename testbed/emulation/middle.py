"""The middle of links: a network namespace without a name, and commands in it.

It lives as long as the process that made it, or until it is closed; interfaces in it go with it, and take their other
ends, on the nodes, with them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from testbed.emulation.conditions import LinkError
from testbed.namespaces import in_thread, unshare


class Middle:
    """A network namespace to put the middles of links into."""

    def __init__(self) -> None:
        """LinkError when it cannot be made."""
        self.fd = _new_namespace()
        """Descriptor of the namespace, which lives as long as it is open."""

    def ip(self, *commands: str) -> None:
        """Run `commands` of ip there; LinkError for the first that fails."""
        self._run(["ip", "-batch", "-"], commands)

    def tc(self, *commands: str) -> None:
        """Run `commands` of tc there; LinkError for the first that fails."""
        self._run(["tc", "-batch", "-"], commands)

    def remove(self, *ports: str) -> None:
        """Remove those of `ports` that are there."""
        with contextlib.suppress(LinkError):
            self._run(["ip", "-force", "-batch", "-"], tuple(f"link delete {port}" for port in ports))

    def output(self, *command: str) -> str:
        """What `command` prints there; LinkError when it fails."""
        return self._run(command, ())

    def close(self) -> None:
        """Give the namespace up, and with it all links through it."""
        os.close(self.fd)

    def _run(self, command: list[str] | tuple[str, ...], lines: tuple[str, ...]) -> str:
        text = "".join(f"{line}\n" for line in lines)
        inside = ["nsenter", f"--net=/proc/self/fd/{self.fd}", *command]
        try:
            run = subprocess.run(inside, input=text, capture_output=True, text=True, pass_fds=[self.fd])
        except OSError as error:  # closed in the meantime, perhaps
            raise LinkError(f"{' '.join(command)}: {error}") from None
        if run.returncode != 0:
            said = " ".join((run.stderr or run.stdout).split())
            raise LinkError(f"{' '.join(command)}: {'; '.join(lines)}: {said or f'exit code {run.returncode}'}")
        return run.stdout


def _new_namespace() -> int:
    """Descriptor of a new network namespace, made by a thread because a thread can leave this process's own."""

    def make() -> int:
        unshare()
        for ipv6 in Path("/proc/sys/net/ipv6/conf").glob("*/disable_ipv6"):  # or it would speak on the links
            ipv6.write_text("1")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    try:
        return in_thread(make)
    except OSError as error:
        raise LinkError(f"no network namespace for the links: {error.strerror} (run as root)") from None
