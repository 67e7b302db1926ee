"""The pool file, and addresses as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtcp.address import Endpoint
from mtcp.errors import MtcpError
from mtcp.pool import Pool, Server

pytestmark = pytest.mark.unit
S1 = '[[server]]\nname = "s1"\nservice = "10.0.0.1"\ncontrol = "10.1.0.1:7000"\n'
S2 = '[[server]]\nname = "s2"\nservice = "2001:0db8::2"\ncontrol = "[2001:db8:1::2]:7000"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pool.toml"


def test_load(file: Path) -> None:
    file.write_text(S1 + S2)
    pool = Pool.load(file)
    second = Server("s2", "2001:db8::2", Endpoint("2001:db8:1::2", 7000))
    assert pool.named("s1") == Server("s1", "10.0.0.1", Endpoint("10.1.0.1", 7000))
    assert pool.by_service("2001:db8::2") == second
    assert pool.by_service("10.0.0.9") is None
    assert pool.others("s1") == [second]
    assert pool.credentials == file.with_name("pool.d")
    with pytest.raises(MtcpError, match="no server 's3'; it has s1, s2"):
        pool.named("s3")


def test_a_server_with_addresses_of_both_kinds(file: Path) -> None:
    file.write_text(S1.replace('"10.0.0.1"', '["10.0.0.1", "2001:0db8::1"]') + S2)
    pool = Pool.load(file)
    assert pool.named("s1").services == ("10.0.0.1", "2001:db8::1")
    assert pool.by_service("2001:db8::1") is pool.by_service("10.0.0.1") is pool.named("s1")
    assert pool.named("s1").place_of(Endpoint("10.0.0.7", 80)) == Endpoint("10.0.0.1", 80)
    assert pool.named("s1").place_of(Endpoint("fd00::7", 443)) == Endpoint("2001:db8::1", 443)
    assert pool.named("s2").place_of(Endpoint("10.0.0.7", 80)) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "names no"),
        ("server = []", "names no"),
        ("[[server]", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        ("server = 5", "needs name, service"),
        ("server = ['s1']", "needs name, service"),
        ('server = "s1"', "needs name, service"),
        ('[[server]]\nname = "s1"\n', "needs name, service"),
        (S1.replace("10.0.0.1", "s1.example"), "needs name, service"),
        (S1.replace(":7000", ""), "needs name, service"),
        (S1.replace(":7000", ":70000"), "needs name, service"),
        (S1.replace('"s1"', '"../s1"'), "is not a letter and"),
        (S1.replace('"s1"', '"CA"'), "is not a letter and"),
        (S1.replace('"s1"', '"10.0.0.1"'), "is not a letter and"),
        (S1.replace('"s1"', f'"{"s" * 64}"'), "is not a letter and"),
        ("credentials = 1\n" + S1, "credentials is the name of a directory"),
        (S1.replace('"10.0.0.1"', "[]"), "needs name, service"),
        (S1.replace('"10.0.0.1"', '["10.0.0.1", "10.0.0.1"]'), "twice"),
        (S1 + S1, "twice"),
        (S1 + S2.replace('"s2"', '"S1"'), "twice"),
        (S1 + S1.replace('"s1"', '"s2"'), "twice"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(file: Path, text: str | bytes, why: str) -> None:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(MtcpError, match=why) as error:
        Pool.load(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_credentials_elsewhere(file: Path) -> None:
    for written, meant in (("keys", file.parent / "keys"), ("/etc/mtcp/keys", Path("/etc/mtcp/keys"))):
        file.write_text(f'credentials = "{written}"\n{S1}')
        assert Pool.load(file).credentials == meant


def test_no_file(file: Path) -> None:
    with pytest.raises(MtcpError, match="cannot read the pool file"):
        Pool.load(file)


@pytest.mark.parametrize("text", ["10.0.0.1:80", "[2001:db8::1]:65535", "[::1]:1"])
def test_endpoint_round_trip(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize("text", ["", "80", "10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "s1:80", ":80"])
def test_not_an_endpoint(text: str) -> None:
    with pytest.raises(ValueError):
        Endpoint.parse(text)
