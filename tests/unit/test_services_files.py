"""The file server: when it closes, and what it exports. (What it serves: tests/e2e.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from testbed.services import files
from testbed.services.files import Exporting, imported_response


class Connection:
    """Of a client that says all at once."""

    def __init__(self, said: bytes = b"") -> None:
        self._said = said
        self.output = b""
        self.exported: list[tuple[int, bytes]] = []
        """How much had been written, and the state."""

    def recv(self, size: int) -> bytes:
        said, self._said = self._said[:size], self._said[size:]
        return said

    def sendall(self, data: bytes) -> None:
        self.output += data

    def sendfile(self, file: Any, offset: int, count: int) -> None:
        file.seek(offset)
        self.output += file.read(count)

    def export_state(self, state: bytes) -> None:
        self.exported.append((len(self.output), state))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "digits").write_bytes(b"0123456789")
    return tmp_path


@pytest.mark.parametrize(
    ("request_", "closes"),
    [
        (b"GET /digits HTTP/1.1\r\nHost: s1\r\n\r\n", False),
        (b"GET /digits HTTP/1.1\r\nHost: s1\r\nConnection: close\r\n\r\n", True),
        (b"GET /digits HTTP/1.0\r\n\r\n", True),
        (b"HEAD /digits HTTP/1.1\r\nHost: s1\r\nConnection: close\r\n\r\n", True),
    ],
)
def test_it_closes_when_the_client_wants_that_and_says_so(directory: Path, request_: bytes, closes: bool) -> None:
    response = files.next_response(Connection(request_), directory, "")  # type: ignore[arg-type]
    assert response is not None
    assert response.close == closes == ("Connection: close" in response.head)


@pytest.mark.parametrize("every", [0, 3, 5, 10, 20])
def test_each_export_leads_to_the_rest_of_the_response(directory: Path, every: int) -> None:
    exporting = Exporting(more=b"\nx\n" * 5, every=every)
    response = files.Response("head", "digits", 2, 9)
    connection = Connection()
    exporting.export(connection, response)  # type: ignore[arg-type]
    files.send(response, connection, directory, exporting)  # type: ignore[arg-type]
    assert connection.output == b"head2345678"
    assert len(connection.exported) == 1 + (6 // every if every else 0)
    for written, state in connection.exported:
        assert state.endswith(exporting.more)
        other = Connection()
        files.send(imported_response(state), other, directory, exporting)  # type: ignore[arg-type]
        assert connection.output[written:] == other.output
