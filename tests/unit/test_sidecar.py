"""The sidecar's core: however the streams are cut, whenever the connection moves, the client gets the same bytes."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import replace

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcp import cli
from mtcp.address import Endpoint
from mtcp.errors import RemoteProtocolError
from mtcp.sidecar import messages
from mtcp.sidecar.actions import End, Export, Forward, Write
from mtcp.sidecar.rest import TRIES
from mtcp.sidecar.session import SHORT
from mtcp.sidecar.state import Part, State
from tests.unit.sidecar_world import File, WebServer, World

pytestmark = pytest.mark.unit

LONG = bytes(range(251)) * 800
FILES = {
    "/long": File(LONG),
    "/short": File(b"short\n"),
    "/empty": File(b""),
    "/dated": File(LONG[::-1], etag=""),
    "/weak": File(LONG[1:], etag='W/"2"'),
    "/whole": File(LONG[2:], ranges=False),
    "/chunked": File(LONG[3:], chunked=7001),
    "/dribble": File(LONG[:500], chunked=3),
}
HOST = b"Host: example\r\n"


def get(path: str, method: str = "GET", more: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\n".encode() + HOST + more + b"\r\n"


def post(body: bytes, chunk: int = 0, more: bytes = b"") -> bytes:
    if not chunk:
        return get("/post", "POST", b"Content-Length: %d\r\n" % len(body) + more) + body
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return get("/post", "POST", b"Transfer-Encoding: chunked\r\n" + more) + data + b"0\r\n\r\n"


REQUESTS = {
    "long": get("/long"),
    "range": get("/long", more=b"Range: bytes=1000-90000\r\n"),
    "open range": get("/long", more=b"Range: bytes=70000-\r\n"),
    "short": get("/short"),
    "empty": get("/empty"),
    "dated": get("/dated"),
    "weak": get("/weak"),
    "whole": get("/whole"),
    "chunked": get("/chunked"),
    "dribble": get("/dribble"),
    "head": get("/long", "HEAD"),
    "head chunked": get("/chunked", "HEAD"),
    "not modified": get("/long", more=b'If-None-Match: "1"\r\n'),
    "missing": get("/missing"),
    "post": post(b"small body"),
    "post nothing": get("/post", "POST", b"Content-Length: 0\r\n"),
    "long post": post(LONG),
    "chunked post": post(LONG[:30000], 4001),
    "expecting post": post(LONG[:20000], more=b"Expect: 100-continue\r\n"),
    "websocket": get("/short", more=b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
}


def servers(count: int = 2) -> list[WebServer]:
    return [WebServer(dict(FILES)) for _ in range(count)]


def answers(requests: list[bytes], stream: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """The responses in the client's stream, all that there are and whole."""
    http = h11.Connection(h11.CLIENT)
    found = []
    rest = stream
    for each in requests:
        line, *_ = each.partition(b"\r\n")
        method, target, _ = line.split(b" ")
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method=method, target=target, headers=[("Host", "example")]))
        http.send(h11.EndOfMessage())
        http.receive_data(rest)
        body = b""
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            assert event is not h11.NEED_DATA, f"the stream ends in the answer to {line!r}"
            if isinstance(event, h11.Response):
                status, headers = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
        found.append((status, headers, body))
        rest = http.trailing_data[0]
    assert not rest
    return found


def beginning(request: bytes, stream: bytes) -> bytes:
    """What there is of the body of the response."""
    if not stream:
        return b""
    http = h11.Connection(h11.CLIENT)
    http.send(h11.Request(method=request.split(b" ")[0], target="/", headers=[("Host", "example")]))
    http.send(h11.EndOfMessage())
    http.receive_data(stream)
    body = b""
    while (event := http.next_event()) is not h11.NEED_DATA:
        body += event.data if isinstance(event, h11.Data) else b""
    return body


def expected(requests: list[bytes]) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    world = World(b"".join(requests), servers(1))
    assert not world.run()
    return answers(requests, bytes(world.written))


@given(
    names=st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=5),
    seed=st.integers(0, 1 << 32),
    piece=st.sampled_from([1, 7, 100, 1500, 1 << 14, 1 << 16]),
    moves=st.integers(0, 8),
)
@settings(deadline=None, max_examples=150)
def test_any_cut_and_any_moves(names: list[str], seed: int, piece: int, moves: int) -> None:
    requests = [REQUESTS[name] for name in names]
    pool = servers(3)
    world = World(b"".join(requests), pool, seed, piece)
    assert not world.run(moves)
    assert answers(requests, bytes(world.written)) == expected(requests)
    bodies = [body for server in pool for body in server.bodies]
    assert len(bodies) == sum("POST" in request[:4].decode() for request in requests), "a request was made twice"


@pytest.mark.parametrize("name", ["long", "range", "open range", "dated"])
@given(seed=st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=25)
def test_a_file_moves_at_any_offset(name: str, seed: int) -> None:
    world = World(REQUESTS[name], servers(), seed)
    assert not world.run(moves=20, likely=0.5)
    assert not world.refused
    assert answers([REQUESTS[name]], bytes(world.written)) == expected([REQUESTS[name]])


@pytest.mark.parametrize("other", [
    File(LONG[::-1], etag='"2"'), File(LONG, etag='W/"1"'), File(LONG[:-1], etag='"2"'), File(LONG + b"x"),
    File(LONG, ranges=False), File(LONG, chunked=1000), File(LONG, etag=""), None,
])  # fmt: skip
def test_a_file_that_differs_is_never_continued(other: File | None) -> None:
    pool = servers()
    del pool[1].files["/long"]
    if other is not None:
        pool[1].files["/long"] = other
    whole = World(REQUESTS["long"], servers(1))
    whole.run()
    world = World(REQUESTS["long"], pool, seed=3)
    while len(world.written) < 1000:
        step(world)
    world.move()
    complaint = world.run()
    assert "/long" in complaint
    assert len(world.written) < len(whole.written) and whole.written.startswith(world.written)


def step(world: World) -> None:
    world._action = world._steps.send(world._do(world._action))


def until(world: World, kind: type) -> None:
    while not isinstance(world._action, kind):
        assert not isinstance(world._action, End)
        step(world)


def test_a_request_that_is_not_safe_holds_the_connection() -> None:
    world = World(REQUESTS["long post"], servers())
    until(world, Export)
    assert world.move(), "nothing has been forwarded yet"
    until(world, Forward)
    assert not world.move()
    until(world, Write)
    assert not world.move(), "a response of that length is not in the state"
    until(world, End)
    assert world.move()
    assert not world.run()
    assert answers([REQUESTS["long post"]], bytes(world.written)) == expected([REQUESTS["long post"]])
    assert [len(server.bodies) for server in world.servers] == [0, 1]


@pytest.mark.parametrize("name", ["post", "long post", "chunked post", "expecting post", "chunked", "whole"])
@given(seed=st.integers(0, 1 << 32), steps=st.integers(1, 60))
@settings(deadline=None, max_examples=40)
def test_a_sidecar_that_dies_while_it_holds(name: str, seed: int, steps: int) -> None:
    """The client is told, or reset; nothing is done twice, and it gets no wrong byte."""
    pool = servers()
    world = World(REQUESTS[name], pool, seed, piece=1000)
    while steps and not isinstance(world._action, End):
        step(world)
        steps -= 1
    world.move(died=True)
    complaint = world.run()
    assert sum(len(server.bodies) for server in pool) <= 1
    if complaint:
        [(_, _, body)] = expected([REQUESTS[name]])
        assert body.startswith(beginning(REQUESTS[name], bytes(world.written)))
    elif b"502 Bad Gateway" in world.written:
        assert "post" in name and b"is not known" in world.written and b"200 OK" not in world.written
    else:
        assert answers([REQUESTS[name]], bytes(world.written)) == expected([REQUESTS[name]])


def test_a_long_upload_is_not_all_in_the_log() -> None:
    world = World(post(bytes(3_000_000)), servers(1))
    assert not world.run()
    assert world.log_max < 1 << 19


def test_a_short_answer_to_it_is_in_the_state() -> None:
    world = World(REQUESTS["post"], servers())
    until(world, Write)
    assert world.move()
    assert not world.run()
    assert answers([REQUESTS["post"]], bytes(world.written)) == expected([REQUESTS["post"]])
    assert world.servers[1].requests == []


def test_what_the_client_asked_is_what_the_server_gets() -> None:
    more = (
        b"Accept-Encoding: gzip\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\nX-Forwarded-For: 1.2.3.4\r\nTE: x\r\n"
    )
    world = World(get("/short", more=more), servers(1))
    assert not world.run()
    [request] = world.servers[0].requests
    assert list(request.headers) == [
        (b"host", b"example"),
        (b"accept-encoding", b"gzip"),
        (b"x-forwarded-for", b"1.2.3.4, 10.0.0.100"),
        (b"via", messages.VIA),
    ]
    [(_, headers, _)] = answers([b"GET / HTTP/1.1\r\n"], bytes(world.written))
    assert headers[b"connection"] == b"close" and b"X-Mixed: Case\r\n" in world.written


def test_both_lengths_are_not_passed_on() -> None:
    world = World(post(b"abc", 3, more=b"Content-Length: 7\r\n"), servers(1))
    assert not world.run()
    [request] = world.servers[0].requests
    assert b"content-length" not in dict(request.headers) and world.servers[0].bodies == [b"abc"]


def test_http_1_0_ends_with_its_answer() -> None:
    world = World(b"GET /chunked HTTP/1.0\r\n\r\n" + REQUESTS["short"], servers(1))
    assert not world.run()
    head, _, body = bytes(world.written).partition(b"\r\n\r\n")
    assert body == FILES["/chunked"].content and b"chunked" not in head
    assert len(world.servers[0].requests) == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"nonsense\r\n\r\n", 400), (get("/" + "x" * 140000), 431), (get("/short", "CONNECT"), 501)],
    ids=["nonsense", "too-long", "connect"],
)
def test_requests_that_are_refused(sent: bytes, status: int) -> None:
    world = World(sent, servers(1))
    assert not world.run()
    assert bytes(world.written).split(b" ")[1] == b"%d" % status
    assert world.servers[0].requests == []


def test_a_request_that_ends_too_early() -> None:
    world = World(REQUESTS["long post"][:-1], servers(1))
    assert world.run()
    assert not world.written and not world.servers[0].bodies


def test_no_server() -> None:
    pool = servers(1)
    pool[0].refuses = 1
    world = World(REQUESTS["short"] * 2, pool)
    assert not world.run()
    [(status, _, text), (again, _, _)] = answers([REQUESTS["short"]] * 2, bytes(world.written))
    assert (status, again) == (502, 200) and b"127.0.0.1:8080" in text


def test_a_server_that_is_started_again_while_it_sends() -> None:
    pool = servers(1)
    pool[0].breaks = 3
    world = World(REQUESTS["long"], pool)
    until(world, Write)
    pool[0].refuses = TRIES - 2
    assert not world.run()
    assert answers([REQUESTS["long"]], bytes(world.written)) == expected([REQUESTS["long"]])
    assert max(world.pauses) > 0


def test_a_server_that_stays_away() -> None:
    pool = servers(1)
    pool[0].breaks = 1
    world = World(REQUESTS["long"], pool)
    until(world, Write)
    pool[0].refuses = 100
    assert "does not give the rest" in world.run()


@pytest.mark.parametrize("name", ["whole", "chunked", "long post"])
def test_a_server_that_breaks_off_what_cannot_be_gone_on_with(name: str) -> None:
    pool = servers(1)
    pool[0].breaks = 1
    assert "early" in World(REQUESTS[name], pool).run()


def test_a_server_that_breaks_off_a_short_answer() -> None:
    pool = servers(1)
    pool[0].breaks = 1
    world = World(REQUESTS["post"], pool)
    assert not world.run()
    [(status, _, _)] = answers([REQUESTS["post"]], bytes(world.written))
    assert status == 502


PART = Part("/a", [("Host", "x")], '"1"', 5, 500, 1000)


@given(
    head=st.binary(max_size=50),
    unread=st.binary(max_size=50),
    close=st.booleans(),
    part=st.none() | st.just(PART),
)
def test_states_travel(head: bytes, unread: bytes, close: bool, part: Part | None) -> None:
    state = State(head, unread, close, part)
    assert State.decode(state.encode()) == state


@given(st.binary(max_size=200) | st.just(State(part=PART).encode().replace(b'"end"', b'"fin"')))
def test_other_states_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        State.decode(data)


def response(**headers: str) -> h11.Response:
    return h11.Response(status_code=200, headers=[(k.replace("_", "-"), v) for k, v in headers.items()])


def test_what_can_be_gone_on_with() -> None:
    request = h11.Request(method="GET", target="/a", headers=[("Host", "x"), ("Range", "bytes=0-"), ("Cookie", "c")])
    good = {"ETag": '"1"', "Content_Length": str(SHORT), "Accept_Ranges": "bytes"}
    part = messages.part_of(request, response(**good))
    assert part == Part("/a", [("Host", "x"), ("Cookie", "c")], '"1"', 0, SHORT, SHORT)
    dated = {"Last_Modified": "Mon, 23 Nov 2026 20:00:00 GMT", "Date": "Mon, 23 Nov 2026 20:00:00 GMT"}
    for bad in ({"ETag": 'W/"1"'}, {"ETag": ""} | dated, {"Accept_Ranges": "none"}, {"Content_Length": "0"}):
        assert messages.part_of(request, response(**{**good, **bad})) is None
    assert messages.part_of(replace(request, method=b"POST"), response(**good)) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http://127.0.0.1:8080", Endpoint("127.0.0.1", 8080)),
        ("http://localhost/", Endpoint("127.0.0.1", 80)),
        ("http://[::1]:81", Endpoint("::1", 81)),
        ("https://127.0.0.1", None),
        ("127.0.0.1:8080", None),
        ("http://127.0.0.1/a", None),
        ("http://127.0.0.1:99999", None),
        ("http://example.org", None),
    ],
)
def test_where_the_server_is(text: str, found: Endpoint | None) -> None:
    if found is not None:
        assert cli._upstream(text) == found
    else:
        with pytest.raises((ArgumentTypeError, ValueError)):
            cli._upstream(text)
