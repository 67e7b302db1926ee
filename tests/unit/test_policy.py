"""Policies, each shown a connection's history and asked what it would do."""

from __future__ import annotations

import pytest

from mtcp.address import Endpoint
from mtcp.errors import MtcpError
from mtcp.policy import NAMES, Policy, View, make
from mtcp.wire.options import Hint, HintReason

pytestmark = pytest.mark.unit
S1, S2, S3 = (Endpoint(f"10.0.0.{i}", 80) for i in (1, 2, 3))
MB = 1_000_000


def history(policy: Policy, rates: list[float], sent: list[int] | None = None, start: Endpoint = S1) -> list[int]:
    """Show a connection with these rates, bytes per second in samples of 0.1 s; in which samples it wants to move."""
    current, received, moves = start, 0, []
    for i, rate in enumerate(rates):
        received += int(rate * 0.1)
        others = tuple(s for s in (S1, S2) if s != current)
        view = View(i * 0.1, current, others, received, sent[i] if sent else 100)
        if (target := policy.observe(view)) is not None:
            moves.append(i)
            current = target
    return moves


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_leaves_a_good_connection_alone(name: str) -> None:
    assert history(make(name)(), [MB] * 300) == []


def test_hints_are_followed_to_where_they_lead() -> None:
    view = View(0.0, S1, (S2, S3), 0, 0)
    for name in ("hints", "throughput"):
        policy = make(name)()
        assert policy.hinted(view, Hint(1, HintReason.DRAIN, S3)) == S3
        assert policy.hinted(view, Hint(1, HintReason.DRAIN)) in (S2, S3)
        assert policy.hinted(view, Hint(1, HintReason.DRAIN, Endpoint("10.9.9.9", 80))) in (S2, S3)
        assert policy.hinted(View(0.0, S1, (), 0, 0), Hint(1, HintReason.DRAIN)) is None


def test_manual_declines_hints() -> None:
    assert make("manual")().hinted(View(0.0, S1, (S2,), 0, 0), Hint(1, HintReason.DRAIN, S2)) is None


def test_throughput_leaves_a_server_that_becomes_slow() -> None:
    (moved,) = history(make("throughput:patience=1")(), [MB] * 50 + [MB * 0.1] * 20)
    assert 60 <= moved <= 65


def test_throughput_leaves_a_server_that_does_not_answer_any_more() -> None:
    rates, sent = [MB] * 50 + [0.0] * 30, [100] * 51 + [200] * 29
    assert len(history(make("throughput:patience=1")(), rates, sent)) == 1


def test_throughput_bears_with_a_short_dip() -> None:
    assert history(make("throughput:patience=1")(), [MB] * 50 + [0.0] * 8 + [MB] * 50) == []


def test_throughput_does_not_go_back_and_forth() -> None:
    """All servers are slow: it has a look at the other one, and stays."""
    assert len(history(make("throughput")(), [MB] * 50 + [MB * 0.2] * 600)) == 1


def test_throughput_ignores_connections_that_are_no_transfers() -> None:
    assert history(make("throughput")(), [20_000.0] * 50 + [100.0] * 100) == []


def test_throughput_takes_an_answered_request_for_what_it_is() -> None:
    """Data, then a long silence in which nothing is asked for."""
    rates, sent = [MB] * 50 + [0.0] * 200, [100] * 250
    assert history(make("throughput:patience=2.5")(), rates, sent) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("best", "no policy 'best'"),
        ("throughput:fraction=2", "0 < fraction < 1"),
        ("throughput:speed=2", "speed"),
        ("throughput:fraction=fast", "fast"),
        ("manual:fraction=0.5", "policy 'manual:fraction=0.5'"),
    ],
)
def test_a_policy_that_is_not_understood_is_one_clear_error(text: str, why: str) -> None:
    with pytest.raises(MtcpError, match=why):
        make(text)
