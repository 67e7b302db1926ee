"""Captures of several hosts in one pcapng file, an interface each: Wireshark shows which host saw a packet, and when.

All hosts of the testbed share one clock, so the order of time is the true one.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import capture

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_IF_NAME, _IF_TSRESOL = 2, 9
_NANOSECONDS = b"\x09"
_ETHERNET = 1
_AT_ONCE = 1 << 16  # packets
_HEADER = np.dtype([(name, "<u4") for name in ("type", "total", "interface", "high", "low", "kept", "length")])


def merge(captures: Mapping[str, Path], target: Path) -> tuple[int, list[str]]:
    """Write all packets of the `captures` (by what the interface shall be called) to the pcapng file `target`.

    The order is that of time; of packets of the same instant, that of `captures`. Returns how many packets there are,
    and the captures that end inside a packet, which is left out. CaptureError and OSError as of capture.read.
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
            output.write(_packets(opened, times[some], of_file[some], starts[some]))
    names = list(captures)
    return len(order), list(dict.fromkeys(names[number] for number, file in opened if file.truncated))


def of_directory(directory: Path) -> dict[str, Path]:
    """The captures in a run's directory, by the name of the host (or whatever else was captured)."""
    return {path.stem: path for path in sorted(directory.glob("*.pcap"))}


def _packets(
    opened: list[tuple[int, capture.Records]], times: capture.Ints, of_file: capture.Ints, starts: capture.Ints
) -> bytes:
    """The blocks of these packets."""
    headers, at = np.zeros(len(times), _HEADER), np.zeros(len(times), np.int64)
    for index, (interface, file) in enumerate(opened):
        mine = of_file == index
        headers["interface"][mine] = interface
        headers["kept"][mine], headers["length"][mine] = file.kept(starts[mine]), file.length(starts[mine])
        at[mine] = file.frames(starts[mine])
    kept = headers["kept"].astype(np.int64)
    total = 32 + kept + -kept % 4
    headers["type"], headers["total"] = _PACKET, total
    headers["high"], headers["low"] = times >> 32, times & 0xFFFFFFFF
    blocks = np.zeros(total.sum(), np.uint8)
    begin = np.cumsum(total) - total
    _at_any(blocks, _HEADER)[begin] = headers
    _at_any(blocks, np.dtype("<u4"))[begin + total - 4] = total
    for index, length in np.unique(np.stack([of_file, kept]), axis=1).T if len(kept) else []:
        mine, data = (of_file == index) & (kept == length), np.dtype((np.void, length))
        if length:
            _at_any(blocks, data)[begin[mine] + _HEADER.itemsize] = _at_any(opened[index][1].raw, data)[at[mine]]
    return blocks.tobytes()


def _at_any(raw: NDArray[np.uint8], kind: np.dtype[Any]) -> NDArray[Any]:
    """`raw` as items of that `kind`, one that starts at every byte."""
    return np.ndarray((max(len(raw) - kind.itemsize + 1, 0),), kind, raw, 0, (1,))


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes) -> bytes:
    total = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + total + body + total
