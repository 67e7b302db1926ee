"""The client program's TCP connections, with servers that do anything but what they should."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from mtcp.address import Endpoint
from mtcp.policy import View
from testbed.clients.connections import Broken, Connection, Refused, kind

RESET = struct.pack("ii", 1, 0)
BODY = bytes(range(256)) * 1000


def answer(status: str = "206 Partial Content", length: int = len(BODY), span: str = "", body: bytes = BODY) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n"
    return f"{head}{f'Content-Range: bytes {span}/*' if span else 'X: y'}\r\n\r\n".encode() + body


class Server:
    """Gives each request the next of these answers, in turn; b"" resets the connection, None ends it."""

    def __init__(self, answers: list[bytes | None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = Endpoint(*self._listener.getsockname())
        self.requests: list[bytes] = []
        self._answers = answers
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as connection:
            for each in self._answers:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    piece = connection.recv(4096)
                    if not piece:
                        return
                    request += piece
                self.requests.append(request)
                if not each:
                    if each is not None:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    return
                connection.sendall(each)

    def end(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Server] = []

    def start(*answers: bytes | None) -> Server:
        servers.append(Server(list(answers)))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


def fetched(server: Server, *spans: tuple[int, int | None], name: str = "tcp") -> list[bytes]:
    """The bodies of these ranges; Broken and Refused as they come."""

    async def act() -> list[bytes]:
        async with asyncio.timeout(20):
            connection = kind(name)()
            await connection.open(server.address)
            try:
                return [b"".join([piece async for piece in connection.fetch("/f", *span)]) for span in spans]
            finally:
                connection.close()

    return asyncio.run(act())


def test_ranges_follow_each_other_on_one_connection(serve: Serve) -> None:
    server = serve(
        answer("200 OK"),
        answer(length=10, span="5-14", body=BODY[5:15]),
        answer(length=20, span="30-49", body=BODY[30:50]),
    )
    assert fetched(server, (0, None), (5, 15), (30, None)) == [BODY, BODY[5:15], BODY[30:50]]
    wanted = [next((w for w in r.decode().split("\r\n") if w.startswith("Range")), "") for r in server.requests]
    assert wanted == ["", "Range: bytes=5-14", "Range: bytes=30-"]


@pytest.mark.parametrize("name", ["tcp", "mptcp"])
def test_a_server_without_mptcp_serves_both_kinds(serve: Serve, name: str) -> None:
    assert fetched(serve(answer("200 OK")), (0, None), name=name) == [BODY]


@pytest.mark.parametrize(
    "first",
    [None, b"", b"nonsense\r\n\r\n", answer("200 OK")[:-1], b"HTTP/1.1 200 OK\r\nContent-Le"],
    ids=["end", "reset", "nonsense", "a byte too few", "half a head"],
)
def test_an_answer_that_is_not_whole_is_broken(serve: Serve, first: bytes | None) -> None:
    with pytest.raises(Broken, match=r"127\.0\.0\.1"):
        fetched(serve(first), (0, None))


def test_a_connection_that_ends_between_requests_is_broken(serve: Serve) -> None:
    with pytest.raises(Broken):
        fetched(serve(answer("200 OK"), None), (0, None), (0, None))


@pytest.mark.parametrize(
    ("wrong", "span"),
    [
        (answer("404 Not Found", length=0, body=b""), (0, None)),
        (answer("200 OK"), (5, None)),
        (answer("200 OK"), (0, 10)),
        (answer(length=10, span="6-15", body=BODY[:10]), (5, 15)),
        (answer(length=5, span="5-9", body=BODY[5:10]), (5, 15)),
    ],
    ids=["status", "all for a rest", "all for a range", "another range", "a shorter range"],
)
def test_an_answer_to_something_else_is_refused(serve: Serve, wrong: bytes, span: tuple[int, int | None]) -> None:
    with pytest.raises(Refused, match="/f: status"):
        fetched(serve(wrong), span)


@pytest.mark.parametrize("name", ["tcp", "mptcp"])
def test_nobody_listens(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Endpoint(*listener.getsockname())

    async def act() -> None:
        with pytest.raises(Broken, match="Connection refused"):
            await kind(name)().open(address)

    asyncio.run(act())


def test_what_was_read_before_the_end_has_been_yielded(serve: Serve) -> None:
    """A reset throws nothing away that the program had."""
    server, got = serve(answer("200 OK", length=2 * len(BODY)), b""), b""

    async def act() -> None:
        nonlocal got
        connection = kind("tcp")()
        await connection.open(server.address)
        async for piece in connection.fetch("/f"):
            got += piece
            if got == BODY:
                break
        assert connection.received > len(BODY) and connection.sent == len(server.requests[0])
        connection.close()

    asyncio.run(act())


def test_a_cancelled_fetch_has_lost_nothing(serve: Serve) -> None:
    server = serve(answer("200 OK", length=len(BODY) + 1), None)
    got: list[bytes] = []

    async def read(connection: Connection) -> None:
        async for piece in connection.fetch("/f"):
            got.append(piece)

    async def act() -> None:
        connection = kind("tcp")()
        await connection.open(server.address)
        async with asyncio.timeout(20):
            task = asyncio.create_task(read(connection))
            while sum(map(len, got)) < len(BODY):
                await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.wait([task])
        assert connection.received > len(BODY)
        connection.close()
        connection.close()

    asyncio.run(act())
    assert b"".join(got) == BODY


@pytest.mark.parametrize("name", ["tcp", "mptcp"])
def test_what_the_kernel_knows_is_told_in_the_policy_s_words(serve: Serve, name: str) -> None:
    server = serve(answer("200 OK"))

    async def act() -> None:
        connection = kind(name)()
        assert connection.observed() == {}
        await connection.open(server.address)
        async for _ in connection.fetch("/f"):
            pass
        seen = View(0.0, server.address, (), connection.received, connection.sent, **connection.observed())
        assert seen.srtt is not None and seen.min_rtt is not None and 0 < seen.min_rtt < 5 and 0 < seen.srtt < 5
        assert (seen.retransmitted, seen.out_of_order) == (0, 0)
        connection.close()
        assert connection.observed() == {}

    asyncio.run(act())
