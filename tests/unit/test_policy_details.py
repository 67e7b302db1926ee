"""The policies that find out by themselves, each on histories made for it; and what is told to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from mtcp.address import Endpoint
from mtcp.linux import tcp_info
from mtcp.policy import Known, View, make
from mtcp.policy.dialogue import Dialogue
from mtcp.policy.kernel import observed

pytestmark = pytest.mark.unit
S1, S2, S3 = (Endpoint(f"10.0.0.{i}", 80) for i in (1, 2, 3))


@dataclass
class Connection:
    """One that lives on, view by view."""

    spec: str
    step: float = 0.02

    def __post_init__(self) -> None:
        self.policy = make(self.spec)()
        self.view = View(0.0, S1, (S2,), 0, 0, srtt=0.02)
        assert self.policy.observe(self.view) is None

    def goes_on(self, seconds: float, received: float = 0, sent: float = 0, **seen: Any) -> float | None:
        """For so long, with so many more bytes at each view; for how long, if the policy wants to move."""
        begun = self.view.now
        while self.view.now < begun + seconds - self.step / 2:
            more = {key: (getattr(self.view, key) or 0) + seen[key] for key in COUNTED & seen.keys()}
            self.view = replace(
                self.view,
                now=self.view.now + self.step,
                received=int(self.view.received + received),
                sent=int(self.view.sent + sent),
                **{**seen, **more},
            )
            if self.policy.observe(self.view) is not None:
                return self.view.now - begun
        return None


COUNTED = {"out_of_order", "segments_received", "retransmitted", "segments_sent"}


def asks(connection: Connection, waits: float) -> float | None:
    """A request, `waits` without an answer, which then comes at once, and a pause; when the policy wants to move."""
    for step in ((connection.step, 0, 50), (waits, 0, 0), (connection.step, 900, 0), (0.3, 0, 0)):
        if (moved := connection.goes_on(step[0], received=step[1], sent=step[2])) is not None:
            return moved
    return None


# -- stall


def test_stall_waits_for_so_many_round_trips() -> None:
    for rtt, least, expected in ((0.1, 0.3, 1.0), (0.001, 0.3, 0.3), (0.1, 2.0, 2.0)):
        connection = Connection(f"stall:rtts=10,least={least}")
        connection.view = replace(connection.view, srtt=rtt)
        assert connection.goes_on(0.02, sent=100) is None
        moved = connection.goes_on(5.0)
        assert moved is not None and expected - 0.03 <= moved <= expected + 0.03


def test_stall_does_not_mind_a_server_that_has_answered() -> None:
    connection = Connection("stall")
    for waits in (0.02, 0.2, 0.1):
        assert asks(connection, waits) is None
    assert connection.goes_on(20.0) is None


def test_stall_does_not_mind_an_upload() -> None:
    assert Connection("stall").goes_on(5.0, sent=10_000) is None


def test_stall_sees_that_a_segment_is_missing() -> None:
    """Data came that lacks what was before it: there is more to come, though nothing was asked for lately."""
    connection = Connection("stall")
    assert connection.goes_on(1.0, received=10_000, out_of_order=0, segments_received=7) is None
    assert connection.goes_on(0.02, out_of_order=3, segments_received=3) is None
    moved = connection.goes_on(1.0, out_of_order=0)
    assert moved is not None and 0.25 <= moved <= 0.35


def test_stall_believes_an_application_that_waits() -> None:
    connection = Connection("stall")
    assert connection.goes_on(1.0, received=10_000, waiting=True) is None
    moved = connection.goes_on(1.0, waiting=True)
    assert moved is not None and 0.27 <= moved <= 0.33


# -- latency


def test_latency_minds_answers_that_come_later_and_later() -> None:
    connection = Connection("latency:factor=3,least=0.05,count=3")
    for _ in range(10):
        assert asks(connection, 0.06) is None
    assert asks(connection, 0.3) is None
    assert asks(connection, 0.06) is None
    assert [asks(connection, 0.3) is None for _ in range(3)] == [True, True, False]


def test_latency_does_not_wait_for_an_answer_that_is_as_late_as_three() -> None:
    connection = Connection("latency:factor=3,least=0.05,count=3")
    for _ in range(5):
        assert asks(connection, 0.06) is None
    moved = asks(connection, 5.0)
    assert moved is not None and 0.5 <= moved <= 0.9


def test_latency_does_not_mind_milliseconds() -> None:
    connection = Connection("latency:least=0.2", step=0.005)
    for waits in (*[0.005] * 10, *[0.1] * 10):
        assert asks(connection, waits) is None


def test_latency_minds_a_round_trip_time_that_grows() -> None:
    connection = Connection("latency:factor=3,least=0.05,patience=0.5")
    flow: dict[str, Any] = {"received": 10_000, "srtt": None}
    assert connection.goes_on(2.0, **flow, receive_rtt=0.02) is None
    assert connection.goes_on(2.0, **flow, receive_rtt=0.05) is None
    assert connection.goes_on(0.3, **flow, receive_rtt=0.07) is None
    assert connection.goes_on(1.0, **flow, receive_rtt=0.02) is None
    moved = connection.goes_on(2.0, **flow, receive_rtt=0.07)
    assert moved is not None and 0.48 <= moved <= 0.55


def test_latency_does_not_take_a_pause_for_a_round_trip() -> None:
    connection = Connection("latency")
    assert connection.goes_on(2.0, received=10_000, receive_rtt=0.02) is None
    assert connection.goes_on(5.0, receive_rtt=7.0) is None


# -- loss


def test_loss_minds_what_comes_out_of_order() -> None:
    connection = Connection("loss:out_of_order=0.1,patience=1", step=0.05)
    assert connection.goes_on(5.0, received=1000, segments_received=100, out_of_order=0) is None
    assert connection.goes_on(0.1, received=1000, segments_received=100, out_of_order=100) is None
    assert connection.goes_on(5.0, received=1000, segments_received=100, out_of_order=0) is None
    moved = connection.goes_on(5.0, received=1000, segments_received=10, out_of_order=3)
    assert moved is not None and 1.0 <= moved <= 1.6


def test_loss_minds_what_has_to_be_sent_again() -> None:
    connection = Connection("loss:retransmitted=0.05,patience=1", step=0.05)
    assert connection.goes_on(5.0, sent=1000, segments_sent=100, retransmitted=2) is None
    moved = connection.goes_on(5.0, sent=1000, segments_sent=10, retransmitted=2)
    assert moved is not None and 1.0 <= moved <= 1.6


def test_loss_says_nothing_where_nothing_is_known() -> None:
    assert Connection("loss").goes_on(5.0, received=1000) is None


# -- best


def test_best_goes_where_it_is_nearer() -> None:
    connection = Connection("best:margin=0.5,least=0.01,patience=1", step=0.1)
    assert connection.goes_on(5.0, servers={S1: Known(0.05)}) is None
    assert connection.goes_on(5.0, servers={S2: Known(0.05)}) is None
    assert connection.goes_on(5.0, servers={S1: Known(0.05), S2: Known(0.03)}) is None
    moved = connection.goes_on(5.0, servers={S1: Known(0.06), S2: Known(0.03)})
    assert moved is not None and 0.95 <= moved <= 1.2


def test_best_leaves_an_overloaded_server_for_a_farther_one() -> None:
    connection = Connection("best", step=0.1)
    assert connection.goes_on(5.0, servers={S1: Known(0.02), S2: Known(0.2)}) is None
    assert connection.goes_on(5.0, servers={S1: Known(0.02, load=1.0), S2: Known(0.2)}) is not None


def test_best_goes_nowhere_where_nobody_answers() -> None:
    connection = Connection("best", step=0.1)
    lost = float("inf")
    assert connection.goes_on(5.0, servers={S1: Known(0.3), S2: Known(lost)}) is None
    assert connection.goes_on(5.0, servers={S1: Known(lost), S2: Known(lost)}) is None
    assert connection.goes_on(5.0, servers={S1: Known(lost), S2: Known(0.3)}) is not None


def test_best_goes_to_none_that_was_not_probed() -> None:
    policy = make("best:patience=0")()
    servers = {S1: Known(0.3), S3: Known(0.02)}
    views = [View(float(i), S1, (S2, S3), i, 0, servers=servers) for i in range(3)]
    assert {policy.observe(view) for view in views} <= {None, S3}


# -- what is told


def test_the_kernel_knows_who_spoke_last() -> None:
    """Both since the view before: a request, and an answer to that or to an earlier one."""
    first = View(0.0, S1, (), 0, 0)
    for asked_at, heard_at, waits in ((0.010, 0.015, False), (0.015, 0.010, True)):
        dialogue = Dialogue(first)
        dialogue.follow(first, View(0.02, S1, (), 100, 50, asked_at=asked_at, heard_at=heard_at))
        assert dialogue.waiting is waits


def test_what_the_kernel_does_not_know_is_not_told() -> None:
    info = dict.fromkeys(tcp_info.FIELDS, 0)
    assert observed(info, 5.0) == dict.fromkeys(
        ("segments_received", "segments_sent", "out_of_order", "retransmitted"), 0
    )
    info |= {"rtt": 20_000, "min_rtt": 0xFFFFFFFF, "data_segs_in": 4, "data_segs_out": 2, "last_data_recv": 500}
    seen = observed(info, 5.0)
    assert seen["srtt"] == 0.02 and "min_rtt" not in seen
    assert (seen["heard_at"], seen["asked_at"]) == (4.5, 5.0)
    assert observed({}, 5.0) == {}
