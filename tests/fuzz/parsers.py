"""What is fuzzed, one function a parser: it takes any bytes and fails when the parser breaks its word.

The word: only the documented error escapes, what is read and written again reads the same, and nothing is kept.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from analysis.capture import CaptureError
from analysis.capture import read as read_capture
from analysis.run import Run, RunError
from mtcp.address import FourTuple
from mtcp.errors import MtcpError, RemoteProtocolError
from mtcp.linux import segments, syn
from mtcp.linux.segments import Segment, TcpFlags
from mtcp.pool import Pool
from mtcp.wire import frames, options
from mtcp.wire.frames import FrameReader
from tests.messages import CLIENT, FRAMES, OPTIONS, S1


@dataclass(frozen=True)
class Target:
    """A parser under test."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    max_length: int = 512
    """Bytes; longer input says nothing new about this parser."""


def option(data: bytes) -> None:
    """One M-TCP option, and the search for it among a header's options."""
    found = options.find(data)
    try:
        read = options.decode(data)
    except RemoteProtocolError:
        return
    again = options.encode(read)
    assert options.decode(again) == read
    assert data[0] != options.KIND or found == read
    assert options.find(b"\1" + again) == read


def stream(data: bytes) -> None:
    """A control connection's bytes, in pieces: the first byte says of what length."""
    if not data:
        return
    step, data = data[0] + 1, data[1:]
    at_once, in_pieces = _frames(data, len(data) or 1), _frames(data, step)
    assert at_once == in_pieces
    for frame in at_once[0]:
        assert _frames(frames.encode(frame), step) == ([frame], "")


def _frames(data: bytes, step: int) -> tuple[list[frames.Frame], str]:
    """The frames up to the first error, and the error."""
    reader, got = FrameReader(), []
    try:
        for start in range(0, len(data), step):
            got += reader.feed(data[start : start + step])
    except RemoteProtocolError as error:
        return got, str(error)
    return got, ""


def body(data: bytes) -> None:
    """A frame's body, whose type is the first byte; the header is right."""
    if data:
        header = frames.HEADER.pack(frames.MAGIC, 1, 1, data[0] % (len(frames.FrameType) + 2), len(data) - 1)
        stream(b"\xff" + header + data[1:])


def segment(data: bytes) -> None:
    """A control segment, from the IP header on."""
    try:
        read = segments.parse(data)
    except RemoteProtocolError:
        return
    sent = Segment(read.four_tuple.reversed, read.seq, read.ack, read.flags, read.window, read.option)
    assert segments.parse(segments.build(sent)) == read


def saved_syn(data: bytes) -> None:
    """The SYN that the kernel saved."""

    class Socket:
        def getsockopt(self, *_: int) -> bytes:
            return data

    assert syn.asked_for_mtcp(Socket()) in (False, True)  # type: ignore[arg-type]


def pool(data: bytes) -> None:
    """A pool file."""

    class File(PurePosixPath):
        def read_text(self) -> str:
            return data.decode()

    try:
        read = Pool.load(File("pool.toml"))  # type: ignore[arg-type]
    except MtcpError as error:
        assert "\n" not in str(error).rstrip()
        return
    assert all(read.named(name) is server and name for name, server in read.servers.items())


_POOL = b"""credentials = "x.d"
[[server]]
name = "s1"
service = "10.0.0.1"
control = "10.1.0.1:7000"
[[server]]
name = "s2"
service = "2001:db8::2"
control = "[2001:db8::2]:7000"
"""


def capture(data: bytes) -> None:
    """A packet capture."""
    with _file(data) as path, contextlib.suppress(CaptureError):
        packets = read_capture(path)
        assert len(packets) <= len(data) // 54
        assert packets["time_ns"].is_monotonic_increasing


def run_directory(data: bytes) -> None:
    """run.json and events.jsonl, of which the first line is the former."""
    record, _, events = data.partition(b"\n")
    directory = Path(_directory().name)
    (directory / "run.json").write_bytes(record)
    (directory / "events.jsonl").write_bytes(events)
    with contextlib.suppress(RunError):
        run = Run.load(directory)
        assert len(run.events) <= len(events.splitlines()) and all(isinstance(e, dict) for e in run.events)
        assert isinstance(run.servers, dict) and isinstance(run.client_ip + run.scenario + run.id, str)


@contextlib.contextmanager
def _file(data: bytes) -> Any:
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


# -- seeds


def _options() -> list[bytes]:
    return [options.encode(o) for o in OPTIONS]


def _header_options() -> list[bytes]:
    linux = bytes.fromhex("020405b40402080a000000010000000001030307")
    return [*_options(), linux + options.encode(OPTIONS[0]), bytes.fromhex("1e0c0081") + bytes(8)]


def _streams() -> list[bytes]:
    encoded = [frames.encode(f) for f in FRAMES]
    return [b"\x0b" + one for one in encoded] + [b"\xff" + b"".join(encoded)]


def _bodies() -> list[bytes]:
    return [bytes([f.type]) + f.body() for f in FRAMES]


def _packets() -> list[bytes]:
    flags = TcpFlags.SYN_ACK
    return [segments.build(Segment(FourTuple(S1, CLIENT), 1, 2, flags, 3, o)) for o in OPTIONS]


def _syns() -> list[bytes]:
    made = []
    for tcp_options in _header_options():
        padded = tcp_options + b"\1" * (-len(tcp_options) % 4)
        if len(padded) <= 40:
            tcp = struct.pack("!HHIIBBHHH", 1, 2, 3, 0, (20 + len(padded)) << 2, 2, 4, 0, 0) + padded
            made += [b"\x45" + bytes(19) + tcp, b"\x60" + bytes(39) + tcp]
    return made


def _captures() -> list[bytes]:
    header = bytes.fromhex("4d3cb2a1 0200 0400 00000000 00000000 00000400 01000000")
    records = b""
    for number, packet in enumerate(_packets()):
        frame = bytes(12) + b"\x08\x00" + packet
        records += struct.pack("<IIII", number, 5, len(frame), len(frame)) + frame
    return [header, header + records, header + records[:-7], bytes.fromhex("a1b2c3d4") + bytes(16) + b"\0\0\0\1"]


def _runs() -> list[bytes]:
    facts = {"hosts": {"client": "10.0.0.9", "s1": "10.0.0.1"}, "service_port": 80, "client_port": 5}
    record = {"schema_version": 1, "run_id": "x", "scenario": "y", "factors": {"migrations": 2}, "facts": facts}
    event = {"event": "migration", "decided_ns": 1, "committed_ns": 2, "from": "10.0.0.1:80", "to": "s1"}
    texts = [json.dumps(record | {"realtime_minus_monotonic_ns": 3}), json.dumps(event), json.dumps({"event": "x"})]
    return ["\n".join(texts).encode()]


TARGETS = {
    "option": Target(option, _header_options, 64),
    "stream": Target(stream, _streams, 1024),
    "body": Target(body, _bodies, 256),
    "segment": Target(segment, _packets, 128),
    "syn": Target(saved_syn, _syns, 128),
    "pool": Target(pool, lambda: [_POOL], 512),
    "capture": Target(capture, _captures, 2048),
    "run": Target(run_directory, _runs, 1024),
}
