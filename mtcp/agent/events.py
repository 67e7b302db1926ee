"""What the agent did and when, as JSON lines on one clock (CLOCK_MONOTONIC, the same as BPF's ktime)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TextIO


class EventLog:
    """Writes events to a file, or nowhere. Lines are written at `flush`, off the paths that are timed."""

    def __init__(self, path: Path | None) -> None:
        """OSError when the file cannot be made."""
        self._file: TextIO | None = path.open("a", encoding="utf-8") if path else None
        self._pending: list[tuple[int, str, dict[str, Any]]] = []

    def emit(self, event: str, **fields: Any) -> None:
        """Note `event`, which happened now."""
        if self._file is not None:
            self._pending.append((time.monotonic_ns(), event, fields))

    def flush(self) -> None:
        if self._file is not None and self._pending:
            for monotonic_ns, event, fields in self._pending:
                line = {"monotonic_ns": monotonic_ns, "event": event, **fields}
                self._file.write(json.dumps(line, default=str) + "\n")
            self._file.flush()
            self._pending.clear()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()
