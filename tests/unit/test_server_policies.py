"""Servers' policies: when they ask clients to leave, and how many."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcp.errors import MtcpError
from mtcp.linux.netstat import counters
from mtcp.linux.pressure import CpuPressure, RunDelay
from mtcp.policy import SERVER_NAMES, HostView, make_server
from mtcp.wire.options import HintReason

pytestmark = pytest.mark.unit


def asked(spec: str, seconds: float, host: Callable[[float], dict[str, Any]]) -> list[float]:
    """When it lets a client be asked, of a host that is as `host(time)` says."""
    policy, when = make_server(spec)(), []
    for i in range(int(seconds / policy.interval)):
        now = i * policy.interval
        when += [now] * policy.observe(HostView(now, **host(now)))
    return when


def busy(share: float, begin: float = 5.0, end: float = 1e9) -> Callable[[float], dict[str, Any]]:
    return lambda now: {"delay": share if begin <= now < end else 0.05, "pressure": 1.0}


# -- load


def test_load_asks_while_the_service_waits_for_processors() -> None:
    when = asked("load:rate=4,patience=0.5", 15, busy(0.9, 5, 10))
    assert 5.5 <= when[0] <= 6.2
    assert 10 <= when[-1] <= 12
    assert len([t for t in when if 7 <= t < 9]) in (7, 8, 9)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.29])
def test_load_bears_with_a_busy_host_whose_service_is_served(share: float) -> None:
    assert asked("load", 60, busy(share)) == []


def test_load_bears_with_a_short_peak() -> None:
    assert asked("load:patience=0.5", 60, lambda now: {"delay": 1.0 if now % 5 < 0.3 else 0.0}) == []


def test_load_goes_by_the_pressure_where_nobody_knows_the_delay() -> None:
    assert asked("load", 10, lambda _: {"pressure": 0.95})
    assert asked("load", 10, lambda _: {"pressure": 0.6}) == []
    assert asked("load", 10, lambda _: {}) == []


def test_load_minds_an_accept_queue() -> None:
    assert asked("load", 10, lambda _: {"delay": 0.0, "queue": 0.6})
    assert asked("load", 10, lambda _: {"delay": 0.0, "queue": 0.4}) == []


def test_load_has_two_marks() -> None:
    """In trouble from 0.3 on, out of it below 0.15: in between it goes on as it was."""
    assert asked("load:relief=0.5", 20, busy(0.2)) == []
    falling = asked("load:relief=0.5", 20, lambda now: {"delay": 0.9 if now < 5 else 0.2})
    assert falling[-1] > 19
    assert asked("load:relief=0.9", 20, lambda now: {"delay": 0.9 if now < 5 else 0.2})[-1] < 8


# -- attack


@pytest.mark.parametrize(
    "sign",
    [
        lambda now: {"cookies": int(5000 * max(0, now - 5))},
        lambda now: {"drops": int(100 * max(0, now - 5))},
        lambda now: {"half_open": 1500 if now >= 5 else 3},
    ],
    ids=["cookies", "drops", "half-open"],
)
def test_attack_sees_each_sign(sign: Callable[[float], dict[str, Any]]) -> None:
    when = asked("attack", 10, sign)
    assert 5.3 <= when[0] <= 6.2
    assert len(when) > 50


def test_attack_bears_with_many_genuine_clients() -> None:
    """A thousand a second, whose handshakes take 20 ms; now and then one is dropped."""
    assert asked("attack", 60, lambda now: {"half_open": 20, "drops": int(now), "cookies": 0}) == []


def test_attack_ends() -> None:
    when = asked("attack", 30, lambda now: {"cookies": int(5000 * min(max(0, now - 5), 5))})
    assert when[-1] <= 14  # ten seconds of cookies are forgotten as their rate is: by a third of a second each


# -- both


@pytest.mark.parametrize("name", SERVER_NAMES)
@given(
    steps=st.lists(
        st.tuples(
            st.floats(0.001, 2.0),
            st.floats(0, 1),
            st.integers(0, 10_000),
        ),
        max_size=150,
    ),
    rate=st.sampled_from([0.5, 5.0, 100.0]),
)
@settings(max_examples=100, deadline=None)
def test_no_more_are_asked_than_the_rate_allows(name: str, steps: list[tuple[float, float, int]], rate: float) -> None:
    policy = make_server(f"{name}:rate={rate},patience=0")()
    now, count, when = 0.0, 0, []
    for after, share, more in steps:
        now, count = now + after, count + more
        view = HostView(now, share, share, share, cookies=count, half_open=more, drops=count)
        when += [now] * policy.observe(view)
    burst = max(1.0, rate) + 1
    for i, begin in enumerate(when):
        for j in range(i + 1, len(when)):
            assert j - i + 1 <= rate * (when[j] - begin) + burst


def test_servers_policies_are_named_likewise() -> None:
    assert make_server("load")().reason is HintReason.OVERLOAD
    assert make_server("attack")().reason is HintReason.ATTACK
    for text, why in (
        ("hints", "no server policy 'hints'; there are load, attack"),
        ("load:rate=0", "0 < rate"),
        ("load:delay=2", "delay, pressure and queue"),
        ("attack:cookies=0", "cookies, drops and half_open above 0"),
    ):
        with pytest.raises(MtcpError, match=why):
            make_server(text)


# -- what they are told


def test_pressure_is_read_from_the_group_or_the_machine(tmp_path: Path) -> None:
    text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"
    machine = tmp_path / "machine"
    with pytest.raises(MtcpError, match="no pressure stall information: boot it with psi=1"):
        CpuPressure(tmp_path, machine)
    machine.write_text(text)
    assert CpuPressure(tmp_path, machine).seconds() == 1.234567
    (tmp_path / "cpu.pressure").write_text(text.replace("1234567", "2000000"))
    assert CpuPressure(tmp_path, machine).seconds() == 2.0


def test_run_delay_is_a_share_of_the_time_since_the_last_question() -> None:
    delay = RunDelay()
    assert delay.share([os.getpid()]) is None
    share = delay.share([os.getpid(), 1 << 30])
    assert share is not None and 0 <= share <= 1
    assert delay.share([]) is None


def test_counters_are_read_by_their_names() -> None:
    text = "TcpExt: SyncookiesSent ListenDrops\nTcpExt: 12 3\nIpExt: InOctets\nIpExt: 5\n"
    assert dict(counters(text)) == {"TcpExt": {"SyncookiesSent": 12, "ListenDrops": 3}, "IpExt": {"InOctets": 5}}
