"""Packet captures (pcap, Ethernet) as data frames: one row per TCP segment.

One Python loop walks the record headers; everything else is a NumPy gather over the file's bytes, so that a
million packets take about a second.
"""

from __future__ import annotations

import glob
import ipaddress
import mmap
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

CAPABLE, MIGRATE, ACCEPT, ACK3, ABORT = 1, 2, 3, 4, 8
"""Subtypes of the M-TCP option; CAPABLE rides on ordinary segments, all others make a control segment."""

FILE_HEADER, RECORD_HEADER, ETHERNET_HEADER = 24, 16, 14
"""Bytes."""
AT_ONCE = 1 << 16
"""Records that are read at once: more need more memory, and fall out of the processor's cache."""
COLUMNS = ("time_ns", "src", "dst", "sport", "dport", "seq", "ack", "flags", "window", "payload", "control")
_FORMATS = {  # magic number, as the file's first four bytes -> (byte order, nanoseconds per fraction)
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\x3c\x4d": (">", 1),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
}
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_MTCP_OPTION, _MTCP_EXID = 253, 0x4D54

Ints = NDArray[np.int64]


class CaptureError(ValueError):
    """The file is not a capture that can be read; the message is one line that says why."""


def read(path: Path | str) -> pd.DataFrame:
    """Every TCP segment, over IPv4 or IPv6 without extension headers, of the capture at `path`, in order of time.

    A capture is the pcap file of that name, and those in which it goes on (see `files`).

    Columns: `time_ns` (int64, since the epoch), `src`, `dst` (int64, see `address`), `sport`, `dport`,
    `seq`, `ack`, `flags`, `window` (as on the wire), `payload` (bytes of TCP payload that the IP header
    announces, whatever the snap length; a GSO packet is one row), `control` (subtype of the M-TCP option if
    that is the first TCP option, else 0). `attrs["truncated"]`: whether a file ends inside a record.
    Raises CaptureError for anything but pcap with Ethernet frames, OSError if a file cannot be read.
    """
    parts, truncated = [], False
    for file in files(path):
        for records in Records.parts(file, AT_ONCE):
            parts.append(_segments(records))
            truncated |= records.truncated
    packets = pd.DataFrame({name: np.concatenate([part.pop(name) for part in parts]) for name in COLUMNS}, copy=False)
    if not packets["time_ns"].is_monotonic_increasing:
        packets = packets.sort_values("time_ns", kind="stable", ignore_index=True)
    packets.attrs["truncated"] = truncated
    return packets


def files(path: Path | str) -> list[Path]:
    """The files of the capture at `path`, in the order they were written: x.pcap, and x.pcap1, x.pcap2 … if there are.

    CaptureError if one of them is missing between others: packets would be lost without a word.
    """
    path = Path(path)
    suffixes = (file.name.removeprefix(path.name) for file in path.parent.glob(f"{glob.escape(path.name)}?*"))
    later = sorted(int(suffix) for suffix in suffixes if suffix.isdecimal())
    expected = list(range(1, len(later) + 1))
    if later != expected or (later and not path.exists()):
        lost = next((n for n in expected if n not in later), "") if path.exists() else ""
        raise CaptureError(f"{path}{lost} is missing, but later files of the capture are there")
    return [path, *(path.with_name(f"{path.name}{number}") for number in later)]


@dataclass(frozen=True)
class Records:
    """The records of a pcap file."""

    raw: NDArray[np.uint8]
    """The file's bytes."""
    starts: Ints
    """Where in it each complete record starts."""
    order: str
    """The byte order of its numbers, as in struct."""
    fraction_ns: int
    """Nanoseconds per unit of the times' fraction."""
    truncated: bool
    """Whether it ends inside a record, which is left out."""

    @classmethod
    def open(cls, path: Path | str) -> Records:
        """Of the file at `path`; CaptureError if it is not pcap with Ethernet frames, OSError if it cannot be read."""
        return next(cls.parts(path, sys.maxsize))

    @classmethod
    def parts(cls, path: Path | str, most: int) -> Iterator[Records]:
        """The same, so many records at a time: the memory of a part is given back when the next is asked for."""
        with Path(path).open("rb") as file:
            order, fraction_ns = _check_header(file.read(FILE_HEADER), path)
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        raw, end = np.frombuffer(buffer, np.uint8), FILE_HEADER
        while True:
            starts, end = _records(buffer, order, end, most)
            is_last = len(starts) < most
            yield cls(raw, starts, order, fraction_ns, is_last and end != len(buffer))
            if is_last:
                return
            if hasattr(buffer, "madvise"):
                buffer.madvise(mmap.MADV_DONTNEED, 0, end)

    def take(self, kind: str, at: Ints) -> Ints:
        """The numbers of NumPy type `kind` (with byte order) at the byte positions `at`."""
        size = np.dtype(kind).itemsize
        return np.ndarray((max(len(self.raw) - size + 1, 0),), kind, self.raw, 0, (1,))[at].astype(np.int64)

    def time_ns(self, starts: Ints) -> Ints:
        """When the packets of the records that start there were seen, since the epoch."""
        u4 = self.order + "u4"
        return self.take(u4, starts) * 1_000_000_000 + self.take(u4, starts + 4) * self.fraction_ns

    def kept(self, starts: Ints) -> Ints:
        """Bytes of those packets that are in the file."""
        return self.take(self.order + "u4", starts + 8)

    def length(self, starts: Ints) -> Ints:
        """Bytes that they had on the wire."""
        return self.take(self.order + "u4", starts + 12)

    def frames(self, starts: Ints) -> Ints:
        """Where the packets themselves start."""
        return starts + RECORD_HEADER


def address(text: str) -> int:
    """An address as the number that `read` has in `src` and `dst`; of an IPv6 address its last 64 bits, signed."""
    return int.from_bytes(ipaddress.ip_address(text).packed[-8:], "big", signed=":" in text)


def unwrap(seq: Ints, first: int) -> Ints:
    """Offsets in the byte stream, 64 bits wide, of the sequence numbers `seq`, where `first` has offset 0.

    Each number is taken to be within 2 GiB of the one before it, so reordering and wrapping are fine.
    """
    steps = np.asarray(np.diff(seq.astype(np.int64), prepend=first), np.int64)
    return np.cumsum((steps + 2**31) % 2**32 - 2**31)


def _check_header(head: bytes, path: Path | str) -> tuple[str, int]:
    """(byte order, nanoseconds per unit of the time's fraction) of the file that starts with `head`."""
    magic = head[:4]
    if magic == _PCAPNG:
        raise CaptureError(f"{path} is pcapng; only pcap is read: convert it with 'editcap -F nsecpcap'")
    if magic not in _FORMATS:
        raise CaptureError(f"{path} is not a pcap file")
    if len(head) < FILE_HEADER:
        raise CaptureError(f"{path} ends inside the pcap file header")
    order, fraction_ns = _FORMATS[magic]
    linktype = struct.unpack_from(order + "I", head, 20)[0] & 0x03FF_FFFF
    if linktype != 1:
        raise CaptureError(f"{path} has link type {linktype}; only Ethernet (1) is read")
    return order, fraction_ns


def _records(buffer: mmap.mmap, order: str, offset: int, most: int) -> tuple[Ints, int]:
    """Where each complete record starts, from `offset` on, and where the last one ends; so many at most.

    Of fewer the last one reaches to the end of the file, unless that is inside another record.
    """
    captured_length = struct.Struct(order + "I").unpack_from
    starts, end = array("q"), len(buffer)
    last = end - RECORD_HEADER
    while offset <= last and len(starts) < most:
        starts.append(offset)
        offset += RECORD_HEADER + captured_length(buffer, offset + 8)[0]
    if offset > end:
        starts.pop()
    return np.frombuffer(starts, np.int64) if starts else np.empty(0, np.int64), offset


def _segments(file: Records) -> dict[str, NDArray[Any]]:
    """The columns of `read`, of some records."""
    take, record = file.take, file.starts

    def frame_end() -> Ints:
        return file.frames(record) + file.kept(record)

    header = ETHERNET_HEADER + 20 + 20
    record = record[file.kept(record) >= header]
    ip = file.frames(record) + ETHERNET_HEADER
    version, ethertype = take("u1", ip) >> 4, take(">u2", ip - 2)
    is_tcp4 = (ethertype == 0x0800) & (version == 4) & (take("u1", ip + 9) == 6)
    is_tcp4 &= take(">u2", ip + 6) & 0x1FFF == 0  # a later fragment has no TCP header
    is_tcp = is_tcp4 | (ethertype == 0x86DD) & (version == 6) & (take("u1", ip + 6) == 6)
    record, ip, version = record[is_tcp], ip[is_tcp], version[is_tcp]
    tcp = ip + np.where(version == 6, 40, (take("u1", ip) & 0xF) * 4)
    whole = tcp + 20 <= frame_end()
    record, ip, tcp, version = record[whole], ip[whole], tcp[whole], version[whole]

    announced = np.where(version == 6, take(">u2", ip + 4), take(">u2", ip + 2))
    ip_length = announced + np.where(version == 6, 40, 0)
    ip_length = np.where(announced == 0, file.length(record) - ETHERNET_HEADER, ip_length)  # over 64 KiB
    tcp_header = (take("u1", tcp + 12) >> 4) * 4

    control = np.zeros(len(record), np.uint8)
    has_option = np.flatnonzero((tcp_header >= 28) & (tcp + 26 <= frame_end()))
    option = tcp[has_option] + 20
    is_control = (take("u1", option) == _MTCP_OPTION) & (take(">u2", option + 2) == _MTCP_EXID)
    control[has_option[is_control]] = take("u1", option[is_control] + 4) >> 4

    return {
        "time_ns": file.time_ns(record),
        "src": np.where(version == 6, take(">i8", ip + 16), take(">u4", ip + 12)),
        "dst": np.where(version == 6, take(">i8", ip + 32), take(">u4", ip + 16)),
        "sport": take(">u2", tcp).astype(np.uint16),
        "dport": take(">u2", tcp + 2).astype(np.uint16),
        "seq": take(">u4", tcp + 4).astype(np.uint32),
        "ack": take(">u4", tcp + 8).astype(np.uint32),
        "flags": take("u1", tcp + 13).astype(np.uint8),
        "window": take(">u2", tcp + 14).astype(np.uint16),
        "payload": (ip_length - (tcp - ip) - tcp_header).clip(0).astype(np.int32),
        "control": control,
    }
