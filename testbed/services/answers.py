"""What a file server answers, whichever version of HTTP carries it: GET and HEAD of files, single byte ranges."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """Status, headers, and bytes [first, end) of a file."""

    status: int
    headers: Headers
    path: str = ""
    """Below the served directory; empty when there is no body."""
    first: int = 0
    end: int = 0


def answer(method: str, target: str, asked: str | None, directory: Path) -> Answer:
    """To a request for `target` with the Range header `asked`."""
    headers = [("Accept-Ranges", "bytes"), ("Server", "mtcp-files")]
    name = unquote(urlsplit(target).path).lstrip("/")
    file = directory / name
    if method not in ("GET", "HEAD"):
        return Answer(405, [*headers, ("Allow", "GET, HEAD"), ("Content-Length", "0")])
    if not _is_served(file, directory):
        return Answer(404, [*headers, ("Content-Length", "0")])
    size = file.stat().st_size
    first, end = byte_range(asked, size)
    status = 206 if asked and (first, end) != (0, 0) else 200
    if asked and first >= size:
        return Answer(416, [*headers, ("Content-Range", f"bytes */{size}"), ("Content-Length", "0")])
    if status == 206:
        headers.append(("Content-Range", f"bytes {first}-{end - 1}/{size}"))
    else:
        first, end = 0, size
    headers += [("Content-Length", str(end - first)), ("Content-Type", "application/octet-stream")]
    return Answer(status, headers, name if method == "GET" else "", first, end)


def _is_served(file: Path, directory: Path) -> bool:
    try:
        return file.resolve().is_relative_to(directory.resolve()) and file.is_file()
    except (OSError, ValueError):  # no file can be called like that
        return False


def byte_range(header: str | None, size: int) -> tuple[int, int]:
    """[first, end) of a single-range header (RFC 9110 section 14.1.2), or (0, 0) for all; may start past the end."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header or "")
    if match is None or not any(match.groups()):
        return 0, 0
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size
