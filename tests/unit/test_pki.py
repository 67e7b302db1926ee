"""Credentials of a pool: what `mtcp pool init` makes and keeps, and what the agents' contexts let through."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from mtcp import pki
from mtcp.errors import MtcpError

pytestmark = pytest.mark.unit


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "pool.d"
    pki.initialise(directory, ["s1", "s2"])
    return directory


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def expired(directory: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """Make anew the certificates of `names`, such that they expired yesterday."""
    with monkeypatch.context() as patched:
        patched.setattr(pki, "SERVER_LIFETIME", timedelta(days=-1))
        patched.setattr(pki, "CLOCK_SKEW", timedelta(days=2))
        pki.initialise(directory, names, renew=True)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a connection, in memory; ssl.SSLError from the side that refuses first."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends


def test_what_is_made(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "pool.d"
    report = pki.initialise(directory, ["s1", "s_2.rack-3"])
    assert [line.split(",")[0] for line in report] == [
        "CA made",
        "s1: key and certificate made",
        "s_2.rack-3: key and certificate made",
    ]
    modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert modes == {
        "ca.pem": 0o644,
        "ca.key": 0o600,
        "s1.pem": 0o644,
        "s1.key": 0o600,
        "s_2.rack-3.pem": 0o644,
        "s_2.rack-3.key": 0o600,
    }
    assert directory.stat().st_mode & 0o777 == 0o700
    ca, server = (x509.load_pem_x509_certificate((directory / f"{name}.pem").read_bytes()) for name in ("ca", "s1"))
    server.verify_directly_issued_by(ca)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert server.not_valid_before_utc < datetime.now(UTC) < server.not_valid_after_utc <= ca.not_valid_after_utc


def test_again_keeps_all_and_adds_what_is_new(directory: Path) -> None:
    before = contents(directory)
    report = pki.initialise(directory, ["s1", "s3"])
    after = contents(directory)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"s3.pem", "s3.key"}
    assert [line.split(",")[0] for line in report] == [
        "CA kept",
        "s1: kept",
        "s3: key and certificate made",
        "s2: not in the pool file; the pool's agents refuse it",
    ]


def test_renew_keeps_the_ca(directory: Path) -> None:
    before = contents(directory)
    pki.initialise(directory, ["s1", "s2"], renew=True)
    changed = {name for name, data in contents(directory).items() if data != before[name]}
    assert changed == {"s1.pem", "s1.key", "s2.pem", "s2.key"}
    assert pki.contexts(directory, "s1")


def test_key_without_certificate_is_made_anew(directory: Path) -> None:
    """As a crash between the two leaves it."""
    (directory / "s1.pem").unlink()
    assert "s1: key and certificate made" in pki.initialise(directory, ["s1"])[1]
    assert pki.contexts(directory, "s1")


def test_ca_key_is_needed_for_new_certificates_only(directory: Path) -> None:
    (directory / "ca.key").unlink()
    assert pki.initialise(directory, ["s1", "s2"])[0].startswith("CA kept")
    before = contents(directory)
    with pytest.raises(MtcpError, match="need the CA's key"):
        pki.initialise(directory, ["s1", "s3"])
    assert contents(directory) == before


@pytest.mark.parametrize(
    ("path", "data", "why"),
    [
        ("ca.pem", None, "ca.key is there, .*ca.pem is not"),
        ("ca.pem", b"", "holds no certificate"),
        ("ca.key", b"-----BEGIN", "holds no unencrypted EC key"),
        ("s1.pem", b"\xff", "holds no certificate"),
        ("s1.key", b"", "holds no unencrypted EC key"),
        ("s1.key", "s2.key", "is not the key of"),
        ("ca.key", "s2.key", "is not the key of"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(directory: Path, path: str, data: bytes | str | None, why: str) -> None:
    file = directory / path
    if data is None:
        file.unlink()
    else:
        file.write_bytes((directory / data).read_bytes() if isinstance(data, str) else data)
    before = contents(directory)
    with pytest.raises(MtcpError, match=why) as error:
        pki.initialise(directory, ["s1", "s2", "s3"])
    assert "\n" not in str(error.value)
    assert contents(directory) == before


def test_open_directory_and_open_key(directory: Path, tmp_path: Path) -> None:
    (directory / "s1.key").chmod(0o640)
    for use in (lambda: pki.initialise(directory, ["s1"]), lambda: pki.contexts(directory, "s1")):
        with pytest.raises(MtcpError, match=r"mode 640\): chmod 600"):
            use()
    directory.chmod(0o755)
    with pytest.raises(MtcpError, match=r"mode 755\): chmod 700"):
        pki.initialise(directory, ["s2"])
    (tmp_path / "file").write_text("")
    with pytest.raises(MtcpError, match=r"cannot use .*/file"):
        pki.initialise(tmp_path / "file", ["s2"])


def test_a_server_needs_the_ca_and_its_own(directory: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    for name in ("ca.pem", "s1.pem", "s1.key"):
        (ours / name).write_bytes((directory / name).read_bytes())
    (ours / "s1.key").chmod(0o600)
    dialling, accepting = pki.client_context(ours, "s1"), pki.server_context(directory, "s2")
    client, server = handshake(dialling, accepting, "s2")
    assert (pki.peer_name(client), pki.peer_name(server)) == ("s2", "s1")
    assert client.version() == server.version() == "TLSv1.3"
    with pytest.raises(MtcpError, match=r"s2 has no credentials in .*: run `mtcp pool init`"):
        pki.contexts(ours, "s2")


def test_another_server_than_the_one_dialled(directory: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(pki.client_context(directory, "s1"), pki.server_context(directory, "s2"), "s3")


def test_another_ca(directory: Path, tmp_path: Path) -> None:
    pki.initialise(tmp_path / "other", ["s1"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(pki.client_context(tmp_path / "other", "s1"), pki.server_context(directory, "s2"), "s2")
    (directory / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(MtcpError, match=r"s1\.pem is of another CA"):
        pki.contexts(directory, "s1")


def test_one_tls_version_and_no_tickets(directory: Path) -> None:
    for context in (pki.client_context(directory, "s1"), pki.server_context(directory, "s1")):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.get_ca_certs(binary_form=True) == [ssl.PEM_cert_to_DER_cert((directory / "ca.pem").read_text())]
    assert pki.server_context(directory, "s1").num_tickets == 0


def test_expired(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expired(directory, monkeypatch, ["s1"])
    with pytest.raises(MtcpError, match=r"s1\.pem has expired on .*--renew"):
        pki.contexts(directory, "s1")
    assert "s1: kept, but it has expired" in pki.initialise(directory, ["s1"])[1]
    pki.initialise(directory, ["s1"], renew=True)
    assert pki.contexts(directory, "s1")


def test_what_expires_soon_is_said(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pki.Credentials(directory, "s1")
    assert not caplog.messages
    monkeypatch.setattr(pki, "SERVER_LIFETIME", timedelta(days=29))
    pki.initialise(directory, ["s1"], renew=True)
    pki.Credentials(directory, "s1")
    [line] = caplog.messages
    assert line.startswith("the certificate of s1 expires on ")


def test_certificate_of_another_server(directory: Path) -> None:
    for suffix in ("pem", "key"):
        (directory / f"s1.{suffix}").write_bytes((directory / f"s2.{suffix}").read_bytes())
    with pytest.raises(MtcpError, match=r"s1\.pem is not of s1"):
        pki.contexts(directory, "s1")
