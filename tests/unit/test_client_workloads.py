"""What the client program's workloads ask for, and what they write down."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import pytest

from testbed.clients import workloads
from testbed.clients.http import servers as parse_servers
from testbed.clients.record import COALESCED, Record
from testbed.clients.sessions import Staying
from testbed.clients.workloads import SECOND, Media
from testbed.errors import TestbedError
from tests.unit import virtual_time
from tests.unit.client_servers import CONTENT, Servers

pytestmark = pytest.mark.unit

SMALL = Media(rate=0.08, segment=0.1, buffer=0.3)
"""1000 bytes a segment: CONTENT has ten."""


class Slow(Staying):
    """Needs so many seconds for a segment, by its first byte."""

    def __init__(self, record: Record, seconds: dict[int, float]) -> None:
        servers = Servers()
        super().__init__(servers.addresses, servers.kind(), record)
        self._seconds = seconds

    async def fetch(self, path: str, first: int = 0, end: int | None = None) -> None:
        await asyncio.sleep(self._seconds.get(first, 0.0))
        await super().fetch(path, first, end)


Play = Callable[[dict[int, float], float], Record]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    return lambda seconds, until: played(seconds, until, monkeypatch)


def played(seconds: dict[int, float], until: float, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Stream SMALL for `until` seconds."""
    record = Record()

    async def act() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(until), Slow(record, seconds) as session:
                await workloads.stream(session, record, "/big", SMALL)

    virtual_time.run(act(), monkeypatch)
    return record


def ms(instants: Iterable[int | None]) -> list[int | None]:
    """Since the beginning."""
    return [None if each is None else round(each / 1e6 - virtual_time.BEGIN * 1000) for each in instants]


def rebuffering(record: Record) -> float:
    """Seconds, as the docstring of `stream` says."""
    late = (s.done_ns - s.wanted_at_ns for s in record.segments if s.done_ns is not None and s.wanted_at_ns is not None)
    return sum(max(0, each) for each in late) / SECOND


def test_segments_are_asked_for_one_after_the_other_when_there_is_room(play: Play) -> None:
    record = play({0: 0.05}, 0.44)
    assert ms(request.asked_ns for request in record.requests) == [0, 50, 50, 150, 250, 350]
    assert ms(segment.wanted_at_ns for segment in record.segments) == [50, 150, 250, 350, 450, 550]
    assert rebuffering(record) == 0
    assert record._sha256.hexdigest() == hashlib.sha256(CONTENT[:6000]).hexdigest()


def test_a_late_segment_halts_the_player_and_moves_what_follows(play: Play) -> None:
    record = play({3000: 0.6}, 0.81)
    assert ms(request.asked_ns for request in record.requests) == [0, 0, 0, 100, 700, 700, 800]
    assert ms(segment.wanted_at_ns for segment in record.segments) == [0, 100, 200, 300, 800, 900, 1000]
    assert rebuffering(record) == pytest.approx(0.4)


def test_a_segment_that_never_comes_is_in_the_record(play: Play) -> None:
    record = play({2000: 60.0}, 0.3)
    assert len(record.segments) == 3 and record.segments[2].done_ns is None
    assert record.requests[2].done_ns is None and record.requests[2].first_byte_ns is None


def test_start_up_is_no_rebuffering(play: Play) -> None:
    record = play({0: 0.3}, 0.5)
    assert rebuffering(record) == 0
    assert ms([record.segments[0].wanted_at_ns, record.segments[0].done_ns]) == [300, 300]


@pytest.mark.parametrize(("rate", "segment", "buffer"), [(0, 1, 4), (1, 0, 4), (1, 4, 4)])
def test_a_player_that_cannot_play_is_one_clear_error(rate: float, segment: float, buffer: float) -> None:
    with pytest.raises(TestbedError, match="more than one segment"):
        Media(rate, segment, buffer)


def test_a_download_that_ends_before_its_time_is_an_error() -> None:
    record = Record()
    with pytest.raises(TestbedError, match=f"/big came to its end after {len(CONTENT)} bytes"):
        asyncio.run(workloads.download(Slow(record, {}), record, "/big"))
    assert record.size == len(CONTENT)


def test_requests_follow_each_other_on_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    servers, record = Servers(), Record()
    session = Staying(servers.addresses, servers.kind(), record)

    async def act() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.045):
                await workloads.requests(session, record, "/file", 0.01)

    virtual_time.run(act(), monkeypatch)
    assert servers.opened == ["s1"]
    assert ms(request.asked_ns for request in record.requests) == [0, 10, 20, 30, 40]
    assert all((r.bytes, r.server, r.done_ns) == (len(CONTENT), "s1", r.asked_ns) for r in record.requests)


def test_deliveries_of_a_millisecond_and_a_server_are_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    record, now = Record(), 5 * COALESCED
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    for step, server in ((0, "s1"), (COALESCED - 1, "s1"), (0, "s2"), (1, "s2"), (COALESCED, "s2")):
        now += step
        record.delivered(b"ab", server)
    rows = [(row.monotonic_ns, row.bytes, row.server) for row in record.deliveries]
    begin = 5 * COALESCED
    assert rows == [
        (begin, 4, "s1"),
        (begin + COALESCED - 1, 2, "s2"),
        (begin + COALESCED, 2, "s2"),
        (begin + 2 * COALESCED, 2, "s2"),
    ]


def test_the_files_say_what_was_done(tmp_path: Path) -> None:
    record = Record()
    record.opened("s1", 1234)
    with record.request("/file"):
        record.delivered(b"hello", "s1")
    with pytest.raises(ConnectionError), record.request("/file"):
        raise ConnectionError
    record.decided("s1", "s2", "policy")
    record.write(tmp_path, "it broke", {"workload": "requests"})
    told = json.loads((tmp_path / "client.json").read_text())
    assert (told["exit"], told["error"], told["bytes"], told["workload"]) == (1, "it broke", 5, "requests")
    assert told["sha256"] == hashlib.sha256(b"hello").hexdigest()
    assert told["connections"][0]["local_port"] == 1234 and told["decisions"][0]["to"] == "s2"
    requests = pd.read_parquet(tmp_path / "requests.parquet")
    assert list(requests.bytes) == [5, 0] and list(requests.done_ns.isna()) == [False, True]
    assert pd.read_parquet(tmp_path / "deliveries.parquet").bytes.sum() == 5
    assert not (tmp_path / "playout.parquet").exists()


def test_a_client_that_got_nothing_has_its_files(tmp_path: Path) -> None:
    Record().write(tmp_path / "new", "", {})
    assert json.loads((tmp_path / "new" / "client.json").read_text())["exit"] == 0
    assert list(pd.read_parquet(tmp_path / "new" / "deliveries.parquet").columns) == ["monotonic_ns", "bytes", "server"]


def test_servers_are_read_in_their_order() -> None:
    assert [*parse_servers("s2=10.0.0.2:80,s1=[fd00::1]:8080")] == ["s2", "s1"]
    with pytest.raises((ValueError, argparse.ArgumentTypeError)):
        parse_servers("10.0.0.2:80")
