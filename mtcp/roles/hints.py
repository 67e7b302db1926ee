"""A server that would rather be without a connection tells the client so; what that does about it is its policy's."""

from __future__ import annotations

from collections.abc import Callable

from mtcp.address import Endpoint
from mtcp.errors import RemoteProtocolError
from mtcp.roles.repetition import Repetition
from mtcp.wire.options import Hint, HintAck, HintAnswer, HintReason, is_authentic

NUMBERS_PER_TENURE = 256


class HintReceiver:
    """The client's side, for one connection: each hint is decided on once, and answered as often as it comes."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._last: HintAck | None = None

    def hear(self, hint: Hint, decide: Callable[[], HintAnswer]) -> HintAck:
        """The answer to send, by `decide` if the hint is new; RemoteProtocolError when it is forged or replayed."""
        if not is_authentic(hint, self._key):
            raise RemoteProtocolError("HINT with a wrong MAC; dropped")
        if self._last is not None and hint.number < self._last.number:
            raise RemoteProtocolError(f"HINT {hint.number} after {self._last.number}; dropped")
        if self._last is None or hint.number > self._last.number:
            self._last = HintAck(hint.number, decide()).signed(self._key)
        return self._last


class HintSender:
    """The server's side, for one connection: one hint at a time, repeated until it is answered."""

    TIMES = 8

    def __init__(self, key: bytes, attempt: int) -> None:
        """`attempt` is the last one used when the connection came here.

        Hints are numbered from it on: so each server's are later than those of the one before.
        """
        self.answer: HintAnswer | None = None
        """The client's, to the last hint; None as long as there is none."""
        self._key = key
        self._number = attempt * NUMBERS_PER_TENURE
        self._hint: Hint | None = None
        self._repetition: Repetition | None = None

    def send(self, reason: HintReason, preferred: Endpoint | None, now: float) -> None:
        """Begin to tell the client; in place of the hint before."""
        self._number += 1
        self._hint = Hint(self._number, reason, preferred).signed(self._key)
        self._repetition = Repetition(self.TIMES, now)
        self.answer = None

    @property
    def deadline(self) -> float | None:
        """When `due` has something again."""
        return self._repetition.deadline if self._repetition is not None else None

    def due(self, now: float) -> Hint | None:
        """What to send now."""
        if self._repetition is None or not self._repetition.is_due(now):
            return None
        return self._hint

    def confirm(self, option: HintAck) -> None:
        """The client's answer; RemoteProtocolError when it is forged."""
        if not is_authentic(option, self._key):
            raise RemoteProtocolError("HINT_ACK with a wrong MAC; dropped")
        if self._hint is not None and self._repetition is not None and option.number == self._hint.number:
            self.answer = option.answer
            self._repetition.stop()
