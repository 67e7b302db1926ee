"""Captures of several hosts in one pcapng file, an interface each: Wireshark shows which host saw a packet, and when.

All hosts of the testbed share one clock, so the order of time is the true one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from analysis import capture

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_IF_NAME, _IF_TSRESOL = 2, 9
_NANOSECONDS = b"\x09"
_ETHERNET = 1
_AT_ONCE = 1 << 15  # packets
_HEADER = np.dtype([(name, "<u4") for name in ("type", "total", "interface", "high", "low", "kept", "length")])


def merge(captures: Mapping[str, Path], target: Path) -> int:
    """Write all packets of the `captures` (by what the interface shall be called) to the pcapng file `target`.

    The order is that of time; of packets of the same instant, that of `captures`. Returns how many packets there are.
    CaptureError and OSError as of capture.read.
    """
    opened = [
        (number, capture.Records.open(file))
        for number, path in enumerate(captures.values())
        for file in capture.files(path)
    ]
    times = np.concatenate([file.time_ns(file.starts) for _, file in opened])
    of_file = np.repeat(np.arange(len(opened)), [len(file.starts) for _, file in opened])
    starts = np.concatenate([file.starts for _, file in opened])
    order = np.argsort(times, kind="stable")
    with target.open("wb") as output:
        output.write(_block(_SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))
        for name in captures:
            options = _option(_IF_NAME, name.encode()) + _option(_IF_TSRESOL, _NANOSECONDS) + _option(0, b"")
            output.write(_block(_INTERFACE, struct.pack("<HHI", _ETHERNET, 0, 0) + options))
        for first in range(0, len(order), _AT_ONCE):
            some = order[first : first + _AT_ONCE]
            output.write(b"".join(_packets(opened, times[some], of_file[some], starts[some])))
    return len(order)


def of_directory(directory: Path) -> dict[str, Path]:
    """The captures in a run's directory, by the name of the host (or whatever else was captured)."""
    return {path.stem: path for path in sorted(directory.glob("*.pcap"))}


def _packets(
    opened: list[tuple[int, capture.Records]], times: capture.Ints, of_file: capture.Ints, starts: capture.Ints
) -> Iterable[bytes | memoryview]:
    """The blocks of these packets, in pieces."""
    headers, at = np.zeros(len(times), _HEADER), np.zeros(len(times), np.int64)
    for index, (interface, file) in enumerate(opened):
        mine = of_file == index
        records = starts[mine]
        headers["interface"][mine] = interface
        headers["kept"][mine], headers["length"][mine] = file.kept(records), file.length(records)
        at[mine] = file.frames(records)
    kept = headers["kept"].astype(np.int64)
    headers["type"], headers["total"] = _PACKET, 32 + kept + -kept % 4
    headers["high"], headers["low"] = times >> 32, times & 0xFFFFFFFF
    packed, size = memoryview(headers.tobytes()), _HEADER.itemsize
    sources = [file.raw.data for _, file in opened]
    tails = {int(k): bytes(-int(k) % 4) + struct.pack("<I", 32 + k + -k % 4) for k in np.unique(kept)}
    each = zip(of_file.tolist(), at.tolist(), kept.tolist(), strict=True)
    for offset, (file_index, start, length) in zip(range(0, len(packed), size), each, strict=True):
        yield packed[offset : offset + size]
        yield sources[file_index][start : start + length]
        yield tails[length]


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    total = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + total + body + total
