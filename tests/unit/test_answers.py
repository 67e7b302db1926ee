"""What file servers answer, whatever carries it."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.services.answers import Answer, answer, byte_range

pytestmark = pytest.mark.unit


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("x")
    served = tmp_path / "served"
    (served / "sub").mkdir(parents=True)
    (served / "sub" / "a b").write_bytes(bytes(100))
    return served


def header(found: Answer, name: str) -> str | None:
    return dict(found.headers).get(name)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, (0, 0)),
        ("bytes=0-", (0, 100)),
        ("bytes=5-9", (5, 10)),
        ("bytes=5-500", (5, 100)),
        ("bytes=-30", (70, 100)),
        ("bytes=-300", (0, 100)),
        ("bytes=200-", (200, 100)),
        ("bytes=-", (0, 0)),
        ("bytes=1-2,4-5", (0, 0)),
        ("lines=1-2", (0, 0)),
    ],
)
def test_ranges(asked: str | None, expected: tuple[int, int]) -> None:
    assert byte_range(asked, 100) == expected


def test_whole_files_parts_and_heads(directory: Path) -> None:
    whole = answer("GET", "/sub/a%20b?x=1", None, directory)
    assert (whole.status, whole.path, whole.first, whole.end) == (200, "sub/a b", 0, 100)
    assert header(whole, "Content-Length") == "100" and header(whole, "Content-Range") is None
    part = answer("GET", "/sub/a%20b", "bytes=10-19", directory)
    assert (part.status, part.first, part.end) == (206, 10, 20)
    assert header(part, "Content-Length") == "10" and header(part, "Content-Range") == "bytes 10-19/100"
    head = answer("HEAD", "/sub/a%20b", None, directory)
    assert (head.status, head.path, head.headers) == (200, "", whole.headers)


@pytest.mark.parametrize(
    ("method", "target", "asked", "status"),
    [
        ("GET", "/none", None, 404),
        ("GET", "/sub", None, 404),
        ("GET", "/../secret", None, 404),
        ("GET", "/%2e%2e/secret", None, 404),
        ("GET", "/%00", None, 404),
        ("GET", "/" + "a" * 5000, None, 404),
        ("GET", "/sub/a%20b", "bytes=100-", 416),
        ("POST", "/sub/a%20b", None, 405),
    ],
)
def test_what_cannot_be_had(directory: Path, method: str, target: str, asked: str | None, status: int) -> None:
    found = answer(method, target, asked, directory)
    assert (found.status, found.path, header(found, "Content-Length")) == (status, "", "0")
