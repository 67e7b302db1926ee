"""Hints: a server asks to be left, a client answers once and acts once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtcp.address import Endpoint
from mtcp.errors import RemoteProtocolError
from mtcp.roles.hints import HintReceiver, HintSender
from mtcp.wire.options import Hint, HintAck, HintAnswer, HintReason

pytestmark = pytest.mark.unit
KEY = b"8 bytes!"
S2 = Endpoint("10.0.0.2", 80)


def hint(number: int) -> Hint:
    return Hint(number, HintReason.DRAIN, S2).signed(KEY)


def test_decided_once_answered_every_time() -> None:
    decisions = iter([HintAnswer.WILL_MOVE, HintAnswer.DECLINED])
    receiver = HintReceiver(KEY)
    for _ in range(3):
        assert receiver.hear(hint(1), lambda: next(decisions)) == HintAck(1, HintAnswer.WILL_MOVE).signed(KEY)
    assert receiver.hear(hint(2), lambda: next(decisions)).answer is HintAnswer.DECLINED


@pytest.mark.parametrize(
    "wrong", [Hint(3, HintReason.DRAIN, S2), replace(hint(3), preferred=None), replace(hint(2), number=3), hint(1)]
)
def test_forged_and_replayed_hints_are_not_decided_on(wrong: Hint) -> None:
    receiver = HintReceiver(KEY)
    receiver.hear(hint(2), lambda: HintAnswer.NOWHERE)

    def decide() -> HintAnswer:
        raise AssertionError("asked")

    with pytest.raises(RemoteProtocolError):
        receiver.hear(wrong, decide)


def test_sender_repeats_until_answered() -> None:
    sender = HintSender(KEY, 0)
    assert (sender.deadline, sender.due(0.0)) == (None, None)
    sender.send(HintReason.OVERLOAD, S2, 1.0)
    first = sender.due(1.0)
    assert first == Hint(1, HintReason.OVERLOAD, S2).signed(KEY)
    assert sender.due(1.1) is None
    assert sender.deadline is not None and sender.due(sender.deadline) == first
    sender.confirm(HintAck(1, HintAnswer.WILL_MOVE).signed(KEY))
    assert (sender.answer, sender.deadline) == (HintAnswer.WILL_MOVE, None)


def test_sender_gives_up_after_a_while() -> None:
    sender, count = HintSender(KEY, 0), 0
    sender.send(HintReason.OVERLOAD, None, 0.0)
    while sender.deadline is not None:
        count += sender.due(sender.deadline) is not None
    assert (count, sender.answer) == (HintSender.TIMES, None)


def test_sender_takes_only_genuine_answers_to_the_last_hint() -> None:
    sender = HintSender(KEY, 0)
    sender.send(HintReason.OVERLOAD, None, 0.0)
    sender.send(HintReason.DRAIN, None, 0.1)
    sender.confirm(HintAck(1, HintAnswer.WILL_MOVE).signed(KEY))
    assert sender.answer is None
    with pytest.raises(RemoteProtocolError):
        sender.confirm(HintAck(2, HintAnswer.WILL_MOVE))
    assert sender.deadline is not None


def test_the_next_servers_hints_are_later_than_any_of_the_one_before() -> None:
    """So none of a server that has lost the connection can be played again once another has it."""
    before, after = HintSender(KEY, 0), HintSender(KEY, 1)
    numbers = []
    for sender, count in ((before, 200), (after, 1)):
        for _ in range(count):
            sender.send(HintReason.DRAIN, None, 0.0)
        last = sender.due(0.0)
        assert last is not None
        numbers.append(last.number)
    assert numbers[0] < numbers[1]
