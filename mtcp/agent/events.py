"""What the agent did and when, as JSON lines on one clock (CLOCK_MONOTONIC, the same as BPF's ktime)."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

MOST_UNREAD = 10_000
"""Events kept for a subscriber that is slow."""


@dataclass
class _Subscriber:
    send: Callable[[str], bool]
    drop: Callable[[], None]
    unread: deque[str] = field(default_factory=deque)

    def pass_on(self) -> None:
        while self.unread and self.send(self.unread[0]):
            self.unread.popleft()


class EventLog:
    """Writes events to a file, if there is one, and to subscribers. Lines are written at `flush`, off the paths that
    are timed."""

    def __init__(self, path: Path | None) -> None:
        """OSError when the file cannot be made."""
        self._file: TextIO | None = path.open("a", encoding="utf-8") if path else None
        self._pending: list[tuple[int, str, dict[str, Any]]] = []
        self._subscribers: dict[object, _Subscriber] = {}

    def subscribe(self, who: object, send: Callable[[str], bool], drop: Callable[[], None]) -> None:
        """From now on `send` gets every line; it does not wait, and says whether it took it.

        Who leaves MOST_UNREAD lines unread is let go of, by `drop`.
        """
        self._subscribers[who] = _Subscriber(send, drop)

    def unsubscribe(self, who: object) -> None:
        """Nothing if it is no subscriber."""
        self._subscribers.pop(who, None)

    def emit(self, event: str, **fields: Any) -> None:
        """Note `event`, which happened now."""
        if self._file is not None or self._subscribers:
            self._pending.append((time.monotonic_ns(), event, fields))

    def flush(self) -> None:
        lines = [
            json.dumps({"monotonic_ns": monotonic_ns, "event": event, **fields}, default=str)
            for monotonic_ns, event, fields in self._pending
        ]
        self._pending.clear()
        if self._file is not None and lines:
            self._file.writelines(f"{line}\n" for line in lines)
            self._file.flush()
        for who, subscriber in list(self._subscribers.items()):
            subscriber.unread.extend(lines)
            subscriber.pass_on()
            if len(subscriber.unread) > MOST_UNREAD:
                self.unsubscribe(who)
                subscriber.drop()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
