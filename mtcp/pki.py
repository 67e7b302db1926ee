"""The pool's own certificate authority, and who is who on its control connections.

    pool.d/ca.pem    the CA's certificate; every server needs it
    pool.d/ca.key    the CA's key: only `mtcp pool init` needs it, so it can be kept elsewhere
    pool.d/s1.pem    certificate of the server s1; s1 alone needs it, and
    pool.d/s1.key    its key

A certificate names its server (subjectAltName), and serves both sides of a connection. Keys are EC P-256: every TLS
library knows them, they are made in no time, and OpenSSL signs with nothing faster.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mtcp.errors import MtcpError

log = logging.getLogger(__name__)
CA_LIFETIME, SERVER_LIFETIME = timedelta(days=3650), timedelta(days=730)
SOON = timedelta(days=30)
"""For so long before a certificate expires the agent says so."""
CLOCK_SKEW = timedelta(hours=1)
"""Certificates are valid from this long before they are made: the servers' clocks may differ."""


@dataclass(frozen=True)
class Files:
    """Where a key and its certificate are."""

    certificate: Path
    key: Path

    @classmethod
    def of(cls, directory: Path, name: str) -> Files:
        """Those of the server `name`, or of the CA ("ca")."""
        return cls(directory / f"{name}.pem", directory / f"{name}.key")


# -- making


def initialise(directory: Path, names: Sequence[str], renew: bool = False) -> list[str]:
    """Make what is missing in `directory`: the CA, and a key and certificate for each server of `names`.

    What exists is kept; with `renew`, servers get new keys and certificates under the same CA. Returns a line for each
    thing made or kept, and for what people should know. MtcpError says in one line what is in the way.
    """
    with _said_in_one_line(directory):
        kept = {} if renew else {name: _read(directory, name) for name in names if _exists(directory, name)}
        wanted = [name for name in names if name not in kept]
        ca, ca_key, line = _authority(directory, needs_key=bool(wanted))
        report = [line]
        for name in names:
            if name in kept:
                fault = _fault(kept[name], ca, name)
                until = f"until {_day(kept[name])}" if fault is None else f"but it {fault}: run again with --renew"
                report.append(f"{name}: kept, {until}")
                continue
            assert ca_key is not None
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = _server_certificate(name, key.public_key(), ca, ca_key)
            _write(Files.of(directory, name), key, certificate)
            report.append(f"{name}: key and certificate made, until {_day(certificate)}")
        for path in sorted(directory.glob("*.pem")):
            if path.stem not in (*names, "ca"):
                report.append(f"{path.stem}: not in the pool file; the pool's agents refuse it")
    return report


def _authority(directory: Path, needs_key: bool) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey | None, str]:
    """The CA's certificate, its key where that is needed, and a line about them."""
    files = Files.of(directory, "ca")
    if not files.certificate.exists():
        left = next(iter(sorted([*directory.glob("*.pem"), *directory.glob("*.key")])), None)
        if left is not None:
            raise MtcpError(f"{left} is there, {files.certificate} is not: bring it back, or name a new directory")
        _make_directory(directory)
        key = ec.generate_private_key(ec.SECP256R1())
        ca = _ca_certificate(key)
        _write(files, key, ca)
        return ca, key, f"CA made, until {_day(ca)}: {files.certificate}"
    _make_directory(directory)
    ca = _load_certificate(files.certificate)
    line = f"CA kept, until {_day(ca)}: {files.certificate}"
    if not needs_key:
        return ca, None, line
    if _ends(ca) < datetime.now(UTC):
        raise MtcpError(f"the pool's CA has expired on {_day(ca)}: make all anew, in a new directory")
    if not files.key.exists():
        raise MtcpError(f"new certificates need the CA's key: bring {files.key} back for the time being")
    key = _load_key(files.key)
    if key.public_key() != ca.public_key():
        raise MtcpError(f"{files.key} is not the key of {files.certificate}: bring the right one back")
    return ca, key, line


def _make_directory(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = directory.stat().st_mode & 0o777
    if mode & 0o077:
        raise MtcpError(f"{directory} is open to others (mode {mode:o}): chmod 700 {directory}, or name another")


def _ca_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "M-TCP pool CA")])
    builder = _builder(name, name, key.public_key(), datetime.now(UTC) + CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _server_certificate(
    name: str, key: ec.EllipticCurvePublicKey, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    ends = min(datetime.now(UTC) + SERVER_LIFETIME, _ends(ca))
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    issuer = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = _builder(subject, ca.subject, key, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(usage, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
    )
    return builder.sign(ca_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, ends: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(datetime.now(UTC) - CLOCK_SKEW).not_valid_after(ends)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(files: Files, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    """The key first: a certificate says that both are there."""
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for path, data, mode in ((files.key, private, 0o600), (files.certificate, certificate.public_bytes(pem), 0o644)):
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        temporary.replace(path)


# -- reading


def _exists(directory: Path, name: str) -> bool:
    files = Files.of(directory, name)
    return files.certificate.exists() and files.key.exists()


def _read(directory: Path, name: str) -> x509.Certificate:
    """The certificate of `name`, whose key is beside it."""
    files = Files.of(directory, name)
    certificate = _load_certificate(files.certificate)
    mode = files.key.stat().st_mode & 0o777
    if mode & 0o077:
        raise MtcpError(f"{files.key} can be read by others (mode {mode:o}): chmod 600 {files.key}")
    if _load_key(files.key).public_key() != certificate.public_key():
        raise MtcpError(f"{files.key} is not the key of {files.certificate}: bring the right one, or remove both")
    return certificate


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise MtcpError(f"{path} holds no certificate in PEM form") from None


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise MtcpError(f"{path} holds no unencrypted EC key in PEM form")
    return key


def _fault(certificate: x509.Certificate, ca: x509.Certificate, name: str) -> str | None:
    """What is wrong with the certificate of `name`, or None."""
    now = datetime.now(UTC)
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return "is of another CA"
    if _name_in(certificate) != name:
        return f"is not of {name}"
    if certificate.not_valid_before_utc > now:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: is the clock right?"
    return f"has expired on {_day(certificate)}" if _ends(certificate) < now else None


def _name_in(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    found = names.get_values_for_type(x509.DNSName)
    return found[0] if len(found) == 1 else ""


def _ends(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc


def _day(certificate: x509.Certificate) -> str:
    return f"{_ends(certificate):%Y-%m-%d}"


@contextlib.contextmanager
def _said_in_one_line(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MtcpError(f"cannot use {error.filename or directory}: {error.strerror}") from error


# -- using


@dataclass(frozen=True)
class Contexts:
    """What a server needs for its control connections."""

    dialling: ssl.SSLContext
    """Give the server's name as `server_hostname`: it is checked against the certificate."""
    accepting: ssl.SSLContext
    """Ask `peer_name` who dialled."""
    ends: datetime
    """When the server's certificate expires."""


def contexts(directory: Path, name: str) -> Contexts:
    """TLS contexts of the server `name` with its credentials in `directory`.

    TLS 1.3 alone; both sides present a certificate and check the other's, under the pool's CA and no other; no session
    tickets, so no resumption. MtcpError, one line that says what to do, when credentials are missing, expired or wrong.
    """
    files, authority = Files.of(directory, name), Files.of(directory, "ca").certificate
    with _said_in_one_line(directory):
        if not authority.exists() or not _exists(directory, name):
            raise MtcpError(f"{name} has no credentials in {directory}: run `mtcp pool init` and copy them there")
        ca, certificate = _load_certificate(authority), _read(directory, name)
        fault = _fault(certificate, ca, name)
        if fault is not None:
            raise MtcpError(f"{files.certificate} {fault}; `mtcp pool init --renew` makes new ones")
    dialling, accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for context in (dialling, accepting):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        context.load_verify_locations(authority)
        context.load_cert_chain(files.certificate, files.key)
    accepting.num_tickets = 0
    return Contexts(dialling, accepting, _ends(certificate))


def client_context(directory: Path, name: str) -> ssl.SSLContext:
    """With which the server `name` dials; see `contexts`."""
    return contexts(directory, name).dialling


def server_context(directory: Path, name: str) -> ssl.SSLContext:
    """With which the server `name` accepts; see `contexts`."""
    return contexts(directory, name).accepting


class Credentials:
    """The contexts of a server, read again when its files have changed."""

    def __init__(self, directory: Path, name: str) -> None:
        """MtcpError as of `contexts`."""
        self._directory = directory
        self._name = name
        self._stamps = self._look()
        self._contexts = self._load()

    def current(self) -> Contexts:
        """Those of the files as they are; while something is wrong with them, those of before."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._contexts = self._load()
            except MtcpError as error:
                log.warning("%s; going on with those of before", error)
        return self._contexts

    def _load(self) -> Contexts:
        loaded = contexts(self._directory, self._name)
        if loaded.ends - datetime.now(UTC) < SOON:
            log.warning("the certificate of %s expires on %s: mtcp pool init --renew", self._name, f"{loaded.ends:%F}")
        return loaded

    def _look(self) -> list[tuple[int, int, int]]:
        """What changes whenever a file does."""
        files = Files.of(self._directory, self._name)
        stamps = []
        for path in (Files.of(self._directory, "ca").certificate, files.certificate, files.key):
            with contextlib.suppress(OSError):
                stat = path.stat()
                stamps.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return stamps


def peer_name(connection: ssl.SSLObject | ssl.SSLSocket) -> str:
    """The server at the other end of a connection whose handshake is over; "" when its certificate names none."""
    encoded = connection.getpeercert(binary_form=True)
    return _name_in(x509.load_der_x509_certificate(encoded)) if encoded else ""
