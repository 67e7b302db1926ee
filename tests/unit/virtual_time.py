"""An asyncio loop whose clock goes on only where everybody sleeps: then at once to the next one's time to wake."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any

import pytest

BEGIN = 1000.0


class _Selector(selectors.SelectSelector):
    now = BEGIN

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for ever"
        self.now += max(0.0, timeout)
        return super().select(0)


def run(coroutine: Coroutine[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it; time.monotonic and monotonic_ns are the loop's clock meanwhile, which begins at BEGIN."""
    selector = _Selector()
    loop = asyncio.SelectorEventLoop(selector)
    with monkeypatch.context() as patch, asyncio.Runner(loop_factory=lambda: loop) as runner:
        patch.setattr(loop, "time", lambda: selector.now)
        patch.setattr(time, "monotonic", lambda: selector.now)
        patch.setattr(time, "monotonic_ns", lambda: round(selector.now * 1e9))
        runner.run(coroutine)
