"""What a client program asks for, until it is ended: one long download, requests in turn, or a media stream."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass

from testbed.clients.record import Record, Segment
from testbed.clients.sessions import Staying
from testbed.errors import TestbedError

SECOND = 1_000_000_000


async def download(session: Staying, record: Record, path: str) -> None:
    """Get `path` once, as fast as it comes. TestbedError when it is done: it was to last until the client is ended."""
    await session.fetch(path)
    raise TestbedError(f"{path} came to its end after {record.size} bytes: make it longer, or the run shorter")


async def requests(session: Staying, record: Record, path: str, think: float) -> None:
    """Get `path` again and again, each time `think` seconds after the last byte of the answer before."""
    while True:
        with record.request(path):
            await session.fetch(path)
        await asyncio.sleep(think)


@dataclass(frozen=True)
class Media:
    """A stream of a constant rate, and its player."""

    rate: float
    """Mbit/s."""
    segment: float
    """Seconds of media in a segment."""
    buffer: float
    """Seconds of media that the player holds at most."""

    def __post_init__(self) -> None:
        """TestbedError for one that no player can play."""
        if self.rate <= 0 or not 0 < self.segment < self.buffer:
            raise TestbedError("a stream needs a rate, and a buffer of more than one segment")


async def stream(session: Staying, record: Record, path: str, media: Media) -> None:
    """Get the segments of `media`, which lie in `path` one after the other, each as soon as the buffer has room for it.

    Play-out begins with the first segment's last byte. From then on each segment is wanted at the instant at which
    the one before has been played: `wanted_at`. One that is done later than that halts play-out for the difference,
    and all that follow are wanted so much later. Hence

        start-up delay    done - asked of segment 0, whose wanted_at is its done
        rebuffering       the sum of max(0, done - wanted_at) over the segments; for the last one, if it is not done,
                          with the end of the run in place of done
        media buffered    at an instant before it is wanted, wanted_at of the first segment that is not done, minus that
    """
    size = round(media.rate * 1e6 / 8 * media.segment)
    length, capacity = round(media.segment * SECOND), round(media.buffer * SECOND)
    for number in itertools.count():
        segment = Segment(number)
        if number:
            before = record.segments[-1]
            assert before.wanted_at_ns is not None and before.done_ns is not None
            segment.wanted_at_ns = max(before.wanted_at_ns, before.done_ns) + length
            room_at = segment.wanted_at_ns + length - capacity
            await asyncio.sleep((room_at - time.monotonic_ns()) / SECOND)
        record.segments.append(segment)
        with record.request(path) as request:
            await session.fetch(path, number * size, (number + 1) * size)
        segment.done_ns = request.done_ns
        if not number:
            segment.wanted_at_ns = segment.done_ns
