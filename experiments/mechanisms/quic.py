"""QUIC: the application closes its connection and opens one to another server, as over TCP, and asks for the rest.

A QUIC connection follows its client to a new address, but cannot go to another server: servers do not migrate (RFC 9000
section 9; tests/unit/test_quic_migration.py). What it has over TCP is elsewhere: handshake, loss recovery, streams. It
runs in user space here, in Python: docs/quic.md says what that costs, and what of its figures is QUIC's.
"""

from __future__ import annotations

from experiments.mechanisms.base import Mechanism
from experiments.stage import Stage
from testbed import certificates, sandbox


class Quic(Mechanism):
    """See above."""

    name = "quic"
    summary = "QUIC (aioquic): the application closes, and resumes at another server"
    connect = "quic"
    port = 443
    resumes = True
    capture = "udp port 443"

    _credentials = sandbox.RUN / "quic"

    def prepare(self, stage: Stage) -> None:
        network = stage.network
        certificates.make(self._credentials, [*network.addresses.values()])
        what = ("--port", self.port, "--directory", network.directory, "--credentials", self._credentials)
        network.pool.serve(network.servers, "quic_files", *what)

    def client_options(self, stage: Stage) -> list[str]:
        return ["--ca", str(self._credentials / "certificate.pem")]
