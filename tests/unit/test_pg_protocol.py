"""PostgreSQL's messages: streams in pieces, and the messages that we make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.services.pg import protocol
from testbed.services.pg.protocol import Buffer, Message, ProtocolViolation

kinds = st.sampled_from("QPBDECHSXdcf")
messages = st.lists(st.tuples(kinds, st.binary(max_size=40)), max_size=20)
words = st.text(st.characters(max_codepoint=255, blacklist_characters="\0"), max_size=20)


@given(messages, st.data())
def test_pieces(each: list[tuple[str, bytes]], data: st.DataObject) -> None:
    """However the stream is cut, the same messages come out, and what is left over is the rest."""
    stream = b"".join(protocol.make(kind, body) for kind, body in each)
    end = data.draw(st.integers(0, len(stream)))
    buffer, got, at = Buffer(), list[tuple[str, bytes]](), 0
    while at < end:
        length = data.draw(st.integers(1, end - at))
        buffer.feed(stream[at : at + length])
        at += length
        while (message := buffer.message()) is not None:
            got.append((message.kind, message.body))
    assert got == each[: len(got)]
    assert buffer.rest == stream[sum(5 + len(body) for _, body in got) : end]
    assert len(got) < len(each) or end == len(stream)


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.binary(max_size=20))
def test_lengths(length: int, more: bytes) -> None:
    buffer = Buffer(b"Q" + length.to_bytes(4, "big", signed=True) + more)
    if 4 <= length <= protocol.MESSAGE_MAX:
        message = buffer.message()
        assert (message is None) == (length - 4 > len(more))
    else:
        with pytest.raises(ProtocolViolation):
            buffer.message()


@given(st.dictionaries(words.filter(bool), words, max_size=5))
def test_startup(parameters: dict[str, str]) -> None:
    packet = protocol.startup_packet(parameters)
    assert Buffer(packet + b"more").startup() == packet
    assert protocol.integer(packet, 4) >> 16 == protocol.VERSION_3
    assert protocol.startup_parameters(packet) == parameters


@given(st.lists(st.none() | words, max_size=6))
def test_rows(values: list[str | None]) -> None:
    assert protocol.row(Message("D", protocol.data_row(values))) == values


def test_errors() -> None:
    fields = protocol.error_fields(Message("E", protocol.error("40001", "try again")))
    assert fields == {"S": "ERROR", "V": "ERROR", "C": "40001", "M": "try again"}


@given(st.binary(max_size=30), st.integers(1, 3))
def test_strings(data: bytes, count: int) -> None:
    if data.count(b"\0") >= count:
        assert b"\0".join(s.encode("latin-1") for s in protocol.strings(data, count)) == b"\0".join(
            data.split(b"\0")[:count]
        )
    else:
        with pytest.raises(ProtocolViolation):
            protocol.strings(data, count)


def test_cut_short() -> None:
    with pytest.raises(ProtocolViolation):
        protocol.integer(b"abc", 0)
