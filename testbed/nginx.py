"""Debian's nginx on hosts, as it comes, and a sidecar before it: a web server that knows nothing of M-TCP.

All that nginx needs is made under one directory, its configuration too; nothing of the machine's own is used.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from testbed.processes import PATIENCE, CommandError, Program

UPSTREAM_PORT = 8000
READY = 20.0
"""Seconds for nginx to listen, times PATIENCE."""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_CONFIGURATION = """\
daemon off;
master_process off;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    {temporary}
    server {{
        listen {listen};
        root {documents};
        client_max_body_size 0;
        location /put/ {{ root {directory}; dav_methods PUT DELETE; }}
    }}
}}
"""


def start(
    host: Any, directory: Path, documents: Path, log: Path, listen: str = f"127.0.0.1:{UPSTREAM_PORT}"
) -> Program:
    """Start nginx on the Mininet `host`: it serves `documents`, and takes PUT and DELETE below /put/.

    `directory`: a new one for what it writes. Returns when it listens; CommandError when it does not.
    """
    (directory / "put").mkdir(parents=True)
    configuration, pid = directory / "nginx.conf", directory / "nginx.pid"
    temporary = " ".join(f"{name}_temp_path {directory / name};" for name in _TEMPORARY)
    configuration.write_text(
        _CONFIGURATION.format(listen=listen, documents=documents, directory=directory, temporary=temporary)
    )
    command: list[str | Path] = ["/usr/sbin/nginx", "-p", directory, "-c", configuration, "-e", "stderr"]
    program = Program(host, command, log)
    deadline = time.monotonic() + READY * PATIENCE
    while not pid.exists() or not pid.read_text():
        if program.process.poll() is not None or time.monotonic() > deadline:
            program.stop()
            raise CommandError(f"{program.name} does not listen: {program.output().strip() or 'it says nothing'}")
        time.sleep(0.01)
    return program


def sidecar(host: Any, port: int, log: Path, *options: str) -> Program:
    """Start `mtcp sidecar` on `port` before the host's nginx; returns when it listens."""
    mtcp = Path(sys.executable).with_name("mtcp")
    upstream = f"http://127.0.0.1:{UPSTREAM_PORT}"
    program = Program(host, [mtcp, "sidecar", "--upstream", upstream, "--port", str(port), *options], log)
    program.wait_for("listening")
    return program
