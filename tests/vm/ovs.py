"""Open vSwitch of a sandbox: its own database and its own daemon, which go with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
_START = 60.0
"""Seconds that it may take."""


@contextlib.contextmanager
def open_vswitch(directory: Path) -> Iterator[None]:
    """Mininet's OVS switches of this network namespace work within; files are in `directory`."""
    database, socket, log = directory / "conf.db", directory / "db.sock", directory / "ovs.log"
    subprocess.run(["ovsdb-tool", "create", database, _SCHEMA], check=True)
    os.environ["OVS_RUNDIR"] = str(directory)  # where ovs-vsctl looks for the socket
    daemons = []
    with log.open("wb") as output:
        try:
            for command in (["ovsdb-server", f"--remote=punix:{socket}", str(database)], ["ovs-vswitchd"]):
                daemons.append(subprocess.Popen([*command, "--pidfile"], stdout=output, stderr=output))
                _wait_for(socket, daemons[-1], log)
            subprocess.run(["ovs-vsctl", f"--timeout={_START:.0f}", "--no-wait", "init"], check=True)
            yield
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait()
            del os.environ["OVS_RUNDIR"]
            shutil.rmtree(directory, ignore_errors=True)


def _wait_for(socket: Path, daemon: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START
    while not socket.exists():
        assert daemon.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
