"""Policies, each shown a connection's history and asked what it would do."""

from __future__ import annotations

import ast
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcp import policy as policy_package
from mtcp.address import Endpoint
from mtcp.errors import MtcpError
from mtcp.policy import Known, Policy, View, load, make
from mtcp.policy.choice import choose
from mtcp.wire.options import Hint, HintReason

pytestmark = pytest.mark.unit
S1, S2, S3 = (Endpoint(f"10.0.0.{i}", 80) for i in (1, 2, 3))
MBIT = 125_000
"""Bytes per second."""
FAULT = 5.0


def moves(
    policy: Policy,
    rate: Callable[[float], float],
    seconds: float = 20.0,
    asked: Callable[[float], int] = lambda _: 100,
    room: float | None = None,
) -> list[float]:
    """Show it a connection that receives at `rate(time)`; when it wants to move, and does."""
    assert policy.interval is not None
    current, received, when = S1, 0.0, []
    for i in range(int(seconds / policy.interval)):
        now = i * policy.interval
        received += rate(now) * policy.interval
        others = tuple(s for s in (S1, S2) if s != current)
        target = policy.observe(View(now, current, others, int(received), asked(now), room))
        if target is not None:
            when.append(now)
            current = target
    return when


def falls_to(share: float) -> Callable[[float], float]:
    """100 Mbit/s, and from FAULT on that share of it."""
    return lambda now: 100 * MBIT * (1.0 if now < FAULT else share)


def test_policies_are_pure() -> None:
    """No clock, no system calls, nothing of the engine: what they know is shown to them."""
    allowed = {"__future__", "collections", "dataclasses", "math", "mtcp", "typing"}
    for path in Path(policy_package.__file__ or "").parent.glob("*.py"):
        if path.stem == "registry":  # it reads the policy file
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path
            assert not any(name.startswith(("mtcp.linux", "mtcp.agent")) for name in names), path


# -- where


def test_the_best_server_is_chosen_as_far_as_they_are_known() -> None:
    others = (S2, S3)
    assert choose(View(0.0, S1, (), 0, 0)) is None
    assert {choose(View(0.0, S1, others, received, 0)) for received in range(9)} == {S2, S3}
    for servers, best in (
        ({S2: Known(rtt=0.02), S3: Known(rtt=0.01)}, S3),
        ({S2: Known(rtt=0.02), S3: Known(rtt=float("inf"))}, S2),
        ({S2: Known(rtt=0.02), S3: Known(rtt=0.01, load=1.0)}, S2),
        ({S2: Known(load=0.9), S3: Known(load=0.2)}, S3),
        ({S3: Known(load=1.0)}, S2),
    ):
        assert {choose(View(0.0, S1, others, received, 0, servers=servers)) for received in range(9)} == {best}


def test_connections_spread_over_equally_good_servers() -> None:
    servers = {S2: Known(rtt=0.01), S3: Known(rtt=0.01)}
    assert {choose(View(0.0, S1, (S2, S3), n, 0, servers=servers)) for n in range(9)} == {S2, S3}


# -- hints, manual


def test_hints_are_followed_to_where_they_lead() -> None:
    view = View(0.0, S1, (S2, S3), 0, 0)
    for name in ("hints", "throughput"):
        policy = make(name)()
        assert policy.hinted(view, Hint(1, HintReason.DRAIN, S3)) == S3
        assert policy.hinted(view, Hint(1, HintReason.DRAIN)) in (S2, S3)
        assert policy.hinted(view, Hint(1, HintReason.DRAIN, Endpoint("10.9.9.9", 80))) in (S2, S3)
        assert policy.hinted(View(0.0, S1, (), 0, 0), Hint(1, HintReason.DRAIN)) is None


def test_within_the_holdoff_only_a_drain_is_obeyed() -> None:
    policy = make("throughput:holdoff=5")()
    assert policy.observe(View(0.0, S1, (S2,), 0, 0)) is None
    assert policy.observe(View(0.1, S2, (S1,), 0, 0)) is None
    view = View(5.0, S2, (S1,), 0, 0)
    assert policy.hinted(view, Hint(1, HintReason.OVERLOAD)) is None
    assert policy.hinted(view, Hint(2, HintReason.DRAIN)) == S1
    assert policy.hinted(View(5.2, S2, (S1,), 0, 0), Hint(3, HintReason.OVERLOAD)) == S1


@pytest.mark.parametrize("spec", ["manual", "oracle:at=1", "every:bytes=1000"])
def test_some_decline_hints(spec: str) -> None:
    assert make(spec)().hinted(View(0.0, S1, (S2,), 0, 0), Hint(1, HintReason.DRAIN, S2)) is None


# -- throughput


@pytest.mark.parametrize("share", [0.0001, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("patience", [0.5, 1.0])
def test_throughput_leaves_a_slow_server_when_its_patience_ends(share: float, patience: float) -> None:
    (moved,) = moves(make(f"throughput:patience={patience}")(), falls_to(share))
    assert FAULT + patience - 0.06 <= moved <= FAULT + patience + 0.11


def test_throughput_leaves_a_server_that_sends_in_bursts() -> None:
    """64 KiB every 0.3 s."""

    def rate(now: float) -> float:
        return 100 * MBIT if now < FAULT else 65536 / 0.05 if now % 0.3 < 0.04 else 0.0

    (moved,) = moves(make("throughput")(), rate)
    assert FAULT + 0.5 <= moved <= FAULT + 1.2


def test_throughput_leaves_a_server_that_is_fast_for_a_tenth_of_the_time() -> None:
    policy = make("throughput")()
    (moved,) = moves(policy, lambda now: 100 * MBIT if now < FAULT or now % 0.3 < 0.04 else 0.0)
    assert FAULT + 0.5 <= moved <= FAULT + 1.2


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5])
def test_throughput_stays_where_it_is_good(share: float) -> None:
    assert moves(make("throughput")(), falls_to(share)) == []


def test_throughput_leaves_a_server_that_does_not_answer_any_more() -> None:
    (moved,) = moves(make("throughput")(), falls_to(0), asked=lambda now: 200 if now > FAULT + 0.2 else 100)
    assert FAULT + 0.7 <= moved <= FAULT + 0.85


@pytest.mark.parametrize("dip", [0.3, 0.7, 0.95])
def test_throughput_bears_with_a_short_dip(dip: float) -> None:
    policy = make("throughput:patience=1")()
    assert moves(policy, lambda now: 0.0 if FAULT <= now < FAULT + dip else 100 * MBIT) == []


def test_throughput_does_not_go_back_and_forth() -> None:
    """All servers are slow: it has a look at the other one, and stays."""
    assert len(moves(make("throughput")(), falls_to(0.2), seconds=60)) == 1


def test_throughput_tries_again_when_a_move_has_failed() -> None:
    policy, received, tried = make("throughput:holdoff=2")(), 0.0, []
    for i in range(200):
        received += falls_to(0.2)(i * 0.05) * 0.05
        if policy.observe(View(i * 0.05, S1, (S2,), int(received), 0)) is not None:
            tried.append(i * 0.05)
    assert len(tried) == 3 and all(b - a >= 2 for a, b in pairwise(tried))


def test_throughput_ignores_connections_that_are_no_transfers() -> None:
    assert moves(make("throughput")(), lambda now: 20_000.0 if now < FAULT else 100.0) == []


def test_throughput_sees_when_the_client_itself_is_slow() -> None:
    assert moves(make("throughput")(), falls_to(0.1), room=0.1) == []


@pytest.mark.parametrize("patience", [0.5, 2.5])
def test_throughput_takes_an_answered_request_for_what_it_is(patience: float) -> None:
    """Data, then a long silence in which nothing is asked for."""
    assert moves(make(f"throughput:patience={patience}")(), falls_to(0)) == []


def test_throughput_does_not_count_the_time_between_requests() -> None:
    """An answer of 0.2 s at full speed every 0.65 s, asked for just before."""
    policy = make("throughput:patience=0.5")()
    answered = moves(
        policy, lambda now: 100 * MBIT if now % 0.65 < 0.2 else 0.0, asked=lambda now: 100 * int((now + 0.06) / 0.65)
    )
    assert answered == []


def test_throughput_can_be_told_not_to_wait_for_what_is_silent() -> None:
    (moved,) = moves(make("throughput:silence=0.8")(), falls_to(0))
    assert FAULT + 0.75 <= moved <= FAULT + 0.9


def test_throughput_believes_an_application_that_waits() -> None:
    policy = make("throughput")()
    received, moved = 0.0, []
    for i in range(200):
        received += falls_to(0)(i * 0.05) * 0.05
        if policy.observe(View(i * 0.05, S1, (S2,), int(received), 0, waiting=True)) is not None:
            moved.append(i * 0.05)
    assert FAULT + 0.45 <= moved[0] <= FAULT + 0.6


# -- oracle, every


def test_oracle_moves_when_it_is_time() -> None:
    for at in (3.0, 7.7):
        (moved,) = moves(make(f"oracle:at={at}")(), falls_to(1))
        assert at <= moved <= at + 0.003


def test_oracle_leaves_connections_of_later_alone() -> None:
    policy = make("oracle:at=3")()
    assert policy.observe(View(3.1, S2, (S1,), 0, 0)) is None
    assert policy.observe(View(9.0, S2, (S1,), 0, 0)) is None


def test_oracle_tries_again_until_it_has_moved() -> None:
    policy = make("oracle:at=3")()
    tried = [now for now in (0.0, 3.0, 3.1, 3.6, 3.7) if policy.observe(View(now, S1, (S2,), 0, 0))]
    assert tried == [3.0, 3.6]
    assert policy.observe(View(9.0, S2, (S1,), 0, 0)) is None


def test_every_moves_by_the_bytes() -> None:
    spec = make("every:bytes=262144")
    when = moves(spec(), lambda _: 10 * MBIT, seconds=5)
    assert len(when) == int(5 * 10 * MBIT / (262144 + 10 * MBIT * 0.001))


def test_every_begins_when_it_is_told_to() -> None:
    spec = make("every:bytes=262144,at=3")
    when = moves(spec(), lambda _: 10 * MBIT, seconds=5)
    assert min(when) > 3 + 262144 / (10 * MBIT)
    assert len(when) == int(2 * 10 * MBIT / (262144 + 10 * MBIT * 0.001))


# -- all that find out by themselves

DETECTORS = ("throughput", "stall", "latency", "loss", "best")
STEP = st.fixed_dictionaries(
    {
        "after": st.floats(0.001, 0.4),
        "received": st.integers(0, 2_000_000),
        "sent": st.integers(0, 1000),
        "out_of_order": st.integers(0, 100),
        "rtts": st.tuples(st.floats(0.001, 1.0), st.floats(0.001, 1.0)),
        "loads": st.tuples(st.sampled_from([None, 0.0, 1.0]), st.sampled_from([None, 0.0, 1.0])),
        "moves": st.booleans(),
    }
)


@pytest.mark.parametrize("name", DETECTORS)
@given(steps=st.lists(STEP, max_size=120), holdoff=st.sampled_from([0.5, 2.0, 10.0]))
@settings(max_examples=150, deadline=None)
def test_nothing_makes_a_connection_go_back_and_forth(name: str, steps: list[dict[str, Any]], holdoff: float) -> None:
    """Whatever both servers do: it decides once in a hold-off, whether the move comes about or not."""
    policy = make(f"{name}:holdoff={holdoff}")()
    now, current, received, sent, out_of_order, decided = 0.0, S1, 0, 0, 0, []
    for step in steps:
        now += step["after"]
        received += step["received"]
        sent += step["sent"]
        out_of_order += step["out_of_order"]
        view = View(
            now,
            current,
            (S2 if current == S1 else S1,),
            received,
            sent,
            srtt=step["rtts"][0],
            segments_received=received // 1448 + out_of_order,
            out_of_order=out_of_order,
            servers={s: Known(step["rtts"][i], step["loads"][i]) for i, s in enumerate((S1, S2))},
        )
        target = policy.observe(view)
        if target is not None:
            assert target in view.others
            decided.append(now)
            current = target if step["moves"] else current
    assert all(b - a >= holdoff for a, b in pairwise(decided))


@pytest.mark.parametrize("name", DETECTORS)
def test_without_another_server_there_is_nowhere_to_go(name: str) -> None:
    policy = make(name)()
    for i in range(200):
        received = 10 * MBIT * i if i < 100 else 1000 * MBIT
        assert policy.observe(View(i * 0.1, S1, (), received, i, servers={S1: Known(1.0, 1.0)})) is None


# -- by name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fastest", "no policy 'fastest'"),
        ("throughput:fraction=2", "0 < fraction < 1"),
        ("throughput:speed=2", "no parameter 'speed'; there are fraction, patience"),
        ("throughput:fraction=fast", "fast"),
        ("throughput:fraction", "could not convert"),
        ("throughput:holdoff=-1", "holdoff >= 0"),
        ("throughput:holdoff=nan", "holdoff is no number"),
        ("manual:fraction=0.5", "policy 'manual:fraction=0.5': no parameter 'fraction'; there are none"),
        ("every", "bytes=NUMBER lacks"),
        ("every:bytes=0", "bytes >= 1"),
        ("every:bytes=1,at=-1", "at >= 0"),
        ("oracle:at=inf", "at >= 0"),
        ("stall:rtts=0", "rtts > 0"),
        ("latency:factor=1", "factor > 1"),
        ("loss:retransmitted=1", "0 < retransmitted < 1"),
        ("best:margin=-1", "margin >= 0"),
        ("load", "no policy 'load'"),
    ],
)
def test_a_policy_that_is_not_understood_is_one_clear_error(text: str, why: str) -> None:
    with pytest.raises(MtcpError, match=why) as raised:
        make(text)
    assert len(str(raised.value).splitlines()) == 1


def test_a_policy_as_text_is_understood_again() -> None:
    for text in ("hints", "every:bytes=262144.0", "throughput:fraction=0.3,patience=1.5"):
        assert str(make(text)) == text


def test_parameters_come_from_a_file_unless_they_are_given(tmp_path: Path) -> None:
    file = tmp_path / "policies.toml"
    file.write_text("[throughput]\nfraction = 0.3\npatience = 2\n\n[every]\nbytes = 1000\n")
    assert str(make("throughput:patience=1", load(file))) == "throughput:fraction=0.3,patience=1.0"
    assert make("every", load(file)).parameters == {"bytes": 1000}
    assert make("hints", load(file)).parameters == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot read the policy file"),
        ("[throughput", "policy file"),
        ("\xff", "policy file"),
        ("[fastest]\n", "no policy 'fastest'"),
        ("throughput = 1\n", r"\[throughput\] is to be a table of parameter = number"),
        ('[throughput]\nfraction = "a third"\n', r"\[throughput\] is to be a table"),
        ("[throughput]\nfraction = true\n", r"\[throughput\] is to be a table"),
        ("[throughput]\nspeed = 1\n", "no parameter 'speed'"),
    ],
)
def test_a_policy_file_that_is_wrong_is_one_clear_error(tmp_path: Path, text: str | None, why: str) -> None:
    file = tmp_path / "policies.toml"
    if text is not None:
        file.write_text(text, encoding="latin-1")
    with pytest.raises(MtcpError, match=why) as raised:
        make("throughput", load(file))
    assert len(str(raised.value).splitlines()) == 1
