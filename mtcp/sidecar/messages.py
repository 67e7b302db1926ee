"""Heads of HTTP messages as a gateway changes them (RFC 9110 section 7.6), and which responses can be gone on with."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from email.utils import parsedate_to_datetime

import h11

from mtcp.sidecar.state import Headers, Part

SAFE = (b"GET", b"HEAD", b"OPTIONS", b"TRACE")
"""Methods that ask for nothing but the answer (RFC 9110 section 9.2.1): another server may be asked again."""
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
CONDITIONS = frozenset(
    ("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "expect")
)
VIA = b"1.1 mtcp-sidecar"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_AGE_OF_A_VALIDATOR = timedelta(seconds=1)
"""A file that was modified in the second of the response may change once more in it (RFC 9110 section 8.8.2.2)."""
_Message = h11.Request | h11.Response


def value_of(message: _Message, name: bytes) -> str:
    """A header's value, "" when there is none; several are joined."""
    return ", ".join(value.decode("latin-1") for key, value in message.headers if key == name)


def words_of(message: _Message, name: bytes) -> set[str]:
    """A header's value as a list of words, in small letters."""
    return {word.strip().lower() for word in value_of(message, name).split(",")} - {""}


def is_safe(request: h11.Request) -> bool:
    """Whether it may be made again, at another server, as long as the client has nothing of the answer."""
    return request.method in SAFE and not has_body(request)


def has_body(request: h11.Request) -> bool:
    return value_of(request, b"transfer-encoding") != "" or value_of(request, b"content-length") not in ("", "0")


def wants_websocket(request: h11.Request) -> bool:
    """Other protocols one may offer to change to are passed over, as every server may do (RFC 9110 section 7.8)."""
    return "upgrade" in words_of(request, b"connection") and "websocket" in words_of(request, b"upgrade")


def keeps_alive(message: _Message) -> bool:
    """Whether its sender's connection goes on after it."""
    return message.http_version >= b"1.1" and "close" not in words_of(message, b"connection")


def length_of_body(request: h11.Request, response: h11.Response) -> int | None:
    """In bytes; None when only its end will tell."""
    if request.method == b"HEAD" or response.status_code in (204, 304):
        return 0
    length = value_of(response, b"content-length")
    return int(length) if length and not value_of(response, b"transfer-encoding") else None


def for_upstream(request: h11.Request, client: str, upstream: str) -> h11.Request:
    """The request as it goes to the server at `upstream`, for the client with that address."""
    headers = list(_end_to_end(request))
    if not value_of(request, b"host"):
        headers.append((b"Host", upstream.encode()))
    if value_of(request, b"transfer-encoding"):
        # The other header would be a lie, and an old way to smuggle a request past a proxy.
        headers = [(name, value) for name, value in headers if name.lower() != b"content-length"]
        headers.append((b"Transfer-Encoding", b"chunked"))
    known = value_of(request, b"x-forwarded-for")
    headers = [(name, value) for name, value in headers if name.lower() != b"x-forwarded-for"]
    headers.append((b"X-Forwarded-For", (f"{known}, " if known else "").encode("latin-1") + client.encode()))
    headers.append((b"Via", VIA))
    return h11.Request(method=request.method, target=request.target, headers=headers)


def for_client(response: h11.Response | h11.InformationalResponse) -> h11.Response | h11.InformationalResponse:
    """The response as it goes to the client; its connection's own headers are h11's affair."""
    kind = type(response)
    return kind(status_code=response.status_code, reason=response.reason, headers=list(_end_to_end(response)))


def _end_to_end(message: h11.Request | h11.Response | h11.InformationalResponse) -> Iterable[tuple[bytes, bytes]]:
    """Its headers as they were spelt, without those of one connection only."""
    named = {
        word.strip().lower() for key, value in message.headers if key == b"connection" for word in value.split(b",")
    }
    for name, value in message.headers.raw_items():
        if name.lower() not in HOP_BY_HOP and name.lower() not in named:
            yield name, value


# -- going on elsewhere


def part_of(request: h11.Request, response: h11.Response) -> Part | None:
    """What this response, to a request as it went to the server, delivers, if another can be asked to go on with it.

    That is bytes of a file, and a means to tell whether it is the same there.
    """
    validator, length = _validator(response), length_of_body(request, response)
    if request.method != b"GET" or not validator or not length or response.status_code not in (200, 206):
        return None
    if response.status_code == 206:
        matched = _CONTENT_RANGE.fullmatch(value_of(response, b"content-range"))
        if matched is None:  # several ranges at once
            return None
        first, last, size = map(int, matched.groups())
        if last + 1 - first != length:
            return None
    elif "bytes" not in words_of(response, b"accept-ranges"):
        return None
    else:
        first, size = 0, length
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw_items()]
    kept: Headers = [(name, value) for name, value in headers if name.lower() not in CONDITIONS]
    return Part(request.target.decode("latin-1"), kept, validator, first, first + length, size)


def rest_of(part: Part, first: int) -> h11.Request:
    """The request for what is left of `part` from `first` on."""
    headers = [*part.headers, ("Range", f"bytes={first}-{part.end - 1}"), ("If-Range", part.validator)]
    return h11.Request(method="GET", target=part.target, headers=headers)


def mismatch(part: Part, first: int, response: h11.Response) -> str:
    """Why `response` is not the one that `rest_of` asks for; "" when it is."""
    found = value_of(response, b"etag") or value_of(response, b"last-modified")
    if response.status_code in (200, 206) and found != part.validator:
        return f"the file differs here: {found or 'no mark'}, not {part.validator}"
    if response.status_code != 206:
        return f"the server here answers {response.status_code} to the request for the rest"
    found, expected = value_of(response, b"content-range"), f"bytes {first}-{part.end - 1}/{part.size}"
    # Its bytes are passed on as they come.
    if found != expected or length_of_body(rest_of(part, first), response) != part.end - first:
        return f"the server here sends {found or 'no range'}, not {expected}"
    return ""


def _validator(response: h11.Response) -> str:
    """A strong one (RFC 9110 section 8.8), or ""."""
    tag = value_of(response, b"etag")
    if tag:
        return tag if tag.startswith('"') else ""
    modified, date = value_of(response, b"last-modified"), value_of(response, b"date")
    try:
        return modified if parsedate_to_datetime(date) - parsedate_to_datetime(modified) >= _AGE_OF_A_VALIDATOR else ""
    except (TypeError, ValueError):
        return ""
