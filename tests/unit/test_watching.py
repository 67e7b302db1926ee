"""Events on their way to whoever watches: from the log, through the local socket, into lines."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mtcp import cli
from mtcp.address import Endpoint
from mtcp.agent import events as event_log
from mtcp.agent import local
from mtcp.agent.events import EventLog
from mtcp.errors import MtcpError
from mtcp.watching import events, line

CLIENT = ["10.0.0.9", 50000]
NOON = int(time.mktime((2026, 11, 23, 12, 0, 1, 0, 0, 0))) * 10**9


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            {"event": "fenced", "connection": CLIENT, "attempt": 3},
            "12:00:01.000123 s1       fenced             10.0.0.9:50000        attempt 3",
        ),
        (
            {"event": "migrate_sent", "connection": CLIENT, "attempt": 3, "to": ["10.0.0.2", 80]},
            "12:00:01.000123 s1       migrate_sent       10.0.0.9:50000        attempt 3 to=10.0.0.2:80",
        ),
        (
            {"event": "established", "connection": ["2001:db8::9", 1], "server": ["2001:db8::1", 80]},
            "12:00:01.000123 s1       established        [2001:db8::9]:1       server=[2001:db8::1]:80",
        ),
        (
            {
                "event": "migration",
                "outcome": "moved",
                "reason": "",
                "connection": "10.0.0.9:50000",
                "attempt": 1,
                "from": "10.0.0.1:80",
                "to": "10.0.0.2:80",
                "decided_ns": 1_000_000,
                "committed_ns": 3_500_000,
            },
            "12:00:01.000123 s1       migration          10.0.0.9:50000        attempt 1 outcome=moved "
            "from=10.0.0.1:80 to=10.0.0.2:80 ms=2.50",
        ),
        ({"event": "odd"}, "12:00:01.000123 s1       odd"),
        ({"event": "odd", "list": [1, 2, 3]}, "12:00:01.000123 s1       odd                list=[1, 2, 3]"),
    ],
    ids=lambda value: value["event"] if isinstance(value, dict) else "",
)
def test_line(event: dict[str, Any], text: str) -> None:
    assert line({"time_ns": NOON + 123_456, "monotonic_ns": 5, "host": "s1", **event}) == text


# -- the agent's log


class Reader:
    """Takes lines while it is told to."""

    def __init__(self, log: EventLog) -> None:
        self.takes, self.got, self.dropped = True, list[str](), False
        log.subscribe(self, self.send, self.drop)

    def send(self, text: str) -> bool:
        if self.takes:
            self.got.append(json.loads(text)["event"])
        return self.takes

    def drop(self) -> None:
        self.dropped = True


def test_nothing_is_kept_for_nobody() -> None:
    log = EventLog(None)
    log.emit("early")
    reader = Reader(log)
    log.emit("one", connection=Endpoint("10.0.0.9", 1))
    assert reader.got == []
    log.flush()
    assert reader.got == ["one"]
    log.unsubscribe(reader)
    log.unsubscribe(reader)
    log.emit("late")
    log.flush()
    assert reader.got == ["one"]


def test_file_and_subscribers_get_the_same(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events")
    readers = [Reader(log), Reader(log)]
    for name in ("one", "two"):
        log.emit(name, odd=object())
    log.close()
    assert [json.loads(text)["event"] for text in (tmp_path / "events").read_text().splitlines()] == ["one", "two"]
    assert [reader.got for reader in readers] == [["one", "two"]] * 2


def test_a_slow_subscriber_misses_nothing() -> None:
    log = EventLog(None)
    slow, fast = Reader(log), Reader(log)
    slow.takes = False
    for number in range(3):
        log.emit(str(number))
        log.flush()
    assert (slow.got, fast.got) == ([], ["0", "1", "2"])
    slow.takes = True
    log.flush()
    assert slow.got == ["0", "1", "2"]


def test_one_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MOST_UNREAD", 5)
    log = EventLog(None)
    deaf, fast = Reader(log), Reader(log)
    deaf.takes = False
    for number in range(6):
        assert not deaf.dropped
        log.emit(str(number))
        log.flush()
    assert deaf.dropped and not fast.dropped
    log.emit("6")
    log.flush()
    assert fast.got == [str(number) for number in range(7)]


# -- the command, with an agent made by hand


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """The agent's end of the connection of the next command."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(5)
    monkeypatch.setattr(local, "connect", lambda: theirs)
    return ours


def test_events(agent: socket.socket) -> None:
    local.send(agent, {"host": "s1"})
    for name in ("one", "two"):
        local.send(agent, {"monotonic_ns": time.monotonic_ns(), "event": name})
    seen = events(seconds=0.2)
    first = next(seen)
    assert local.receive(agent)[0] == {"op": "watch"}
    assert (first["host"], first["event"]) == ("s1", "one")
    assert abs(first["time_ns"] - time.time_ns()) < 10**9
    assert [event["event"] for event in seen] == ["two"], "it ends after that long"


def test_refusal(agent: socket.socket) -> None:
    local.send(agent, {"error": "only root"})
    with pytest.raises(MtcpError, match="only root"):
        next(events(None))


def test_the_agent_ends(agent: socket.socket) -> None:
    local.send(agent, {"host": "s1"})
    threading.Timer(0.05, agent.close).start()
    with pytest.raises(MtcpError, match="agent has ended"):
        next(events(None))


def test_command(agent: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    local.send(agent, {"host": "s1"})
    local.send(agent, {"monotonic_ns": 1, "event": "fenced", "connection": CLIENT, "attempt": 3})
    assert cli.main(["watch", "--json", "--for", "0.05"]) == 0
    [text] = capsys.readouterr().out.splitlines()
    assert json.loads(text) | {"time_ns": 0} == {
        "time_ns": 0,
        "monotonic_ns": 1,
        "host": "s1",
        "event": "fenced",
        "connection": CLIENT,
        "attempt": 3,
    }
