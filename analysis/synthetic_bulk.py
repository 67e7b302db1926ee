"""A run directory with captures as large as one likes, to measure the analysis with.

One long download that moves on and on: the same stretch of a synthetic one again and again, later in time and in the
stream.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from analysis.capture import ACK, ETHERNET_HEADER, FILE_HEADER, Ints, Records
from analysis.synthetic import SERVICE_PORT, Download, pcap

PACKETS = 10_000
"""With payload, between two moves."""
SIZE, STEP_MS = 1448, 0.025
"""Of such a packet in bytes, and how much later the next one comes."""
ACK_EVERY = 10


def write_bulk(path: Path, size: float) -> tuple[int, int]:
    """A run with captures of `size` bytes or a little more in all; (bytes, packets) of these."""
    stretch, length_ns = _stretch(), round(2 * PACKETS * STEP_MS * 1e6)
    with TemporaryDirectory() as place:
        stretch.write(Path(place))
        pieces = {host: _Piece(Path(place, f"{host}.pcap")) for host in stretch.packets}
    count = math.ceil(size / sum(len(piece.raw) for piece in pieces.values()))
    opening, closing = Download(), Download()
    opening.handshake(-1)
    closing.data(count * length_ns / 1e6, "s1", count * 2 * PACKETS * SIZE, SIZE)
    opening.write(path, {"factors": {}})
    for host, piece in pieces.items():
        with (path / f"{host}.pcap").open("ab") as file:
            for i in range(count):
                file.write(piece.shifted(i * length_ns, i * 2 * PACKETS * SIZE))
            file.write(pcap(closing.packets[host])[FILE_HEADER:])
    timed = ("monotonic_ns", "decided_ns", "committed_ns")
    with (path / "events.jsonl").open("w") as lines:
        for i, event in itertools.product(range(count), stretch.events):
            lines.write(json.dumps(event | {name: event[name] + i * length_ns for name in timed}) + "\n")
    captures = list(path.glob("*.pcap"))
    return sum(file.stat().st_size for file in captures), sum(len(Records.open(file).starts) for file in captures)


def _stretch() -> Download:
    """From S1 to S2 and back."""
    made = Download()
    for move, (owner, other) in enumerate((("s1", "s2"), ("s2", "s1"))):
        for i in range(move * PACKETS, (move + 1) * PACKETS):
            made.data(i * STEP_MS, owner, i * SIZE, SIZE)
            if i % ACK_EVERY == 0:
                made.segment(i * STEP_MS + 0.001, "client", owner, 78, ACK)
        end = (move + 1) * PACKETS * STEP_MS
        made.report(end - 0.02, owner, other, phases={"all": 0.02})
        made.move(end - 0.015, end - 0.005, other)
    return made


class _Piece:
    """The records of a capture."""

    def __init__(self, path: Path) -> None:
        records = Records.open(path)
        ip = records.frames(records.starts) + ETHERNET_HEADER
        tcp = ip + 20
        self.raw = np.array(records.raw[FILE_HEADER:])
        self._starts, self._times = records.starts - FILE_HEADER, records.time_ns(records.starts)
        stream = tcp[(records.take(">u2", tcp) == SERVICE_PORT) & (records.take(">u2", ip + 2) > SIZE)]
        self._sequence, self._numbers = stream + 4 - FILE_HEADER, records.take(">u4", stream + 4)

    def shifted(self, ns: int, offset: int) -> bytes:
        """So much later, and so many bytes on in the stream."""
        self._put("<u4", self._starts, (self._times + ns) // 1_000_000_000)
        self._put("<u4", self._starts + 4, (self._times + ns) % 1_000_000_000)
        self._put(">u4", self._sequence, (self._numbers + offset) % 2**32)
        return self.raw.tobytes()

    def _put(self, kind: str, at: Ints, values: Ints) -> None:
        np.ndarray((len(self.raw) - 3,), kind, self.raw, 0, (1,))[at] = values
