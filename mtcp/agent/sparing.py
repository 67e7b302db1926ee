"""A log that a flood of bad input does not fill."""

from __future__ import annotations

import logging

PER_SECOND = 10


class Sparing(logging.Filter):
    """Lets in PER_SECOND lines of each place in the program; the first line after says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[str, int], tuple[int, int]] = {}
        """Place -> second, and lines in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        place, second = (record.pathname, record.lineno), int(record.created)
        seen_in, lines = self._seen.get(place, (second, 0))
        if second != seen_in:
            if lines > PER_SECOND:
                record.msg = f"{record.getMessage()} (and {lines - PER_SECOND} more like it before)"
                record.args = ()
            lines = 0
        self._seen[place] = second, lines + 1
        return lines < PER_SECOND
