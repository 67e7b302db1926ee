"""A PostgreSQL server on a host, with a cluster of its own that goes with the sandbox."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from testbed import sandbox
from testbed.errors import TestbedError
from testbed.processes import PATIENCE, CommandError, Program

PORT = 5432
SUPERUSER = "postgres"
"""Also the user of the machine as whom it runs: PostgreSQL refuses to be root."""
DEBIAN = Path("/usr/lib/postgresql")
SETTINGS = {
    "listen_addresses": "*",
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",  # /dev/shm is the machine's
    "max_connections": "200",
}
INITDB, READY = 120.0, 60.0
"""Seconds for each."""


class DatabaseError(TestbedError):
    """PostgreSQL cannot be set up; the text says why."""


def find(name: str) -> str | None:
    """Where one of PostgreSQL's own programs is, of its newest version."""
    versions = sorted(DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(versions[-1]) if versions else shutil.which(name)


def program(name: str) -> str:
    """As `find`; DatabaseError when there is none."""
    found = find(name)
    if found is None:
        raise DatabaseError(f"there is no {name} here: run make setup (Debian's package postgresql)")
    return found


def start(host: Any, logs: Path) -> Program:
    """Make a cluster, and start a server for it on the Mininet `host`, on PORT; it trusts everybody.

    It lives in memory, in the sandbox's directory. DatabaseError; CommandError when the server does not start.
    """
    directory = sandbox.RUN / "postgresql"
    try:
        user = pwd.getpwnam(SUPERUSER)
    except KeyError:
        raise DatabaseError(f"there is no user {SUPERUSER} here: install Debian's package postgresql") from None
    directory.mkdir()
    os.chown(directory, user.pw_uid, user.pw_gid)
    initdb = [*_as_user(), program("initdb"), "--pgdata", directory / "data", "--no-sync", "--auth", "trust"]
    made = subprocess.run(
        [*map(str, initdb), "--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C"],
        cwd=directory, capture_output=True, text=True, timeout=INITDB * PATIENCE,
    )  # fmt: skip
    if made.returncode:
        raise DatabaseError(f"initdb failed: {(made.stderr or made.stdout).strip()}")
    with (directory / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n")
    options = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    # Its System V memory would outlive it if it were killed.
    command: list[str | Path] = [
        "unshare",
        "--ipc",
        *_as_user(),
        program("postgres"),
        "-D",
        directory / "data",
        *options,
    ]
    server = Program(host, command, logs / f"postgresql-{host}.log")
    _wait(host, server)
    return server


def _wait(host: Any, server: Program) -> None:
    """Until it takes connections; CommandError when it does not."""
    deadline = time.monotonic() + READY * PATIENCE
    while host.pexec([str(program("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(PORT)])[2]:
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise CommandError(f"{server.name} does not start: {server.output().strip()[-500:]}")
        time.sleep(0.05)


def _as_user() -> list[str]:
    return ["setpriv", f"--reuid={SUPERUSER}", f"--regid={SUPERUSER}", "--clear-groups"]
