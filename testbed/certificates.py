"""Certificates for servers that need one to be spoken to at all. A certificate vouches for itself.

Clients get it as the only CA that they believe, and check the server's address against it: nothing is left out that a
client of a real server does. (Control connections between M-TCP servers are another matter: mtcp.pki.)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from testbed.errors import TestbedError

LIFETIME = timedelta(days=30)
CLOCK_SKEW = timedelta(hours=1)


class Credentials(NamedTuple):
    """PEM files."""

    certificate: Path
    key: Path


def kept(directory: Path, names: Collection[str]) -> Credentials:
    """Those in `directory`; made for `names` if there are none. TestbedError when there is nothing to make them for."""
    found = Credentials(directory / "certificate.pem", directory / "key.pem")
    if all(path.exists() for path in found):
        return found
    if not names:
        raise TestbedError(f"no certificate.pem and key.pem in {directory}, and no names to make them for")
    return make(directory, names)


def make(directory: Path, names: Collection[str]) -> Credentials:
    """Make a key and a certificate for servers called `names` (IP addresses, or DNS names) in `directory`.

    Keys are EC P-256: certificates that fit into a QUIC server's first flight, and no time lost on signing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    made = Credentials(directory / "certificate.pem", directory / "key.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "testbed")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer, issuer, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    made.key.touch(0o600)
    made.key.write_bytes(private)
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return made


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
