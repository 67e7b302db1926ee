"""Packet captures (pcap, Ethernet) as data frames: one row per TCP segment.

One Python loop walks the record headers; everything else is a NumPy gather over the file's bytes, so that a
million packets take about a second.
"""

from __future__ import annotations

import ipaddress
import mmap
import struct
from array import array
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

CAPABLE, MIGRATE, ACCEPT, ACK3, ABORT = 1, 2, 3, 4, 8
"""Subtypes of the M-TCP option; CAPABLE rides on ordinary segments, all others make a control segment."""

_FILE_HEADER, _RECORD_HEADER, _ETHERNET_HEADER = 24, 16, 14
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
    """Every TCP segment, over IPv4 or IPv6 without extension headers, of the pcap file at `path`, in order of time.

    Columns: `time_ns` (int64, since the epoch), `src`, `dst` (int64, see `address`), `sport`, `dport`,
    `seq`, `ack`, `flags`, `window` (as on the wire), `payload` (bytes of TCP payload that the IP header
    announces, whatever the snap length; a GSO packet is one row), `control` (subtype of the M-TCP option if
    that is the first TCP option, else 0). `attrs["truncated"]`: whether the file ends inside a record.
    Raises CaptureError for anything but pcap with Ethernet frames, OSError if the file cannot be read.
    """
    with Path(path).open("rb") as file:
        head = file.read(_FILE_HEADER)
        order, fraction_ns = _check_header(head, path)
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    starts, truncated = _records(buffer, order)
    packets = _segments(np.frombuffer(buffer, np.uint8), starts, order, fraction_ns)
    if not packets["time_ns"].is_monotonic_increasing:
        packets = packets.sort_values("time_ns", kind="stable", ignore_index=True)
    packets.attrs["truncated"] = truncated
    return packets


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
    if len(head) < _FILE_HEADER:
        raise CaptureError(f"{path} ends inside the pcap file header")
    order, fraction_ns = _FORMATS[magic]
    linktype = struct.unpack_from(order + "I", head, 20)[0] & 0x03FF_FFFF
    if linktype != 1:
        raise CaptureError(f"{path} has link type {linktype}; only Ethernet (1) is read")
    return order, fraction_ns


def _records(buffer: mmap.mmap, order: str) -> tuple[Ints, bool]:
    """Where each complete record of the file starts, and whether the file ends inside another one."""
    captured_length = struct.Struct(order + "I").unpack_from
    starts, offset, end = array("q"), _FILE_HEADER, len(buffer)
    while offset + _RECORD_HEADER <= end:
        starts.append(offset)
        offset += _RECORD_HEADER + captured_length(buffer, offset + 8)[0]
    if offset > end:
        starts.pop()
    return np.frombuffer(starts, np.int64) if starts else np.empty(0, np.int64), offset != end


def _segments(raw: NDArray[np.uint8], record: Ints, order: str, fraction_ns: int) -> pd.DataFrame:
    """The frame of `read`, from the file's bytes and the positions of its records."""

    def take(kind: str, at: Ints) -> Ints:
        """The numbers of NumPy type `kind` (with byte order) at the byte positions `at`."""
        size = np.dtype(kind).itemsize
        return np.ndarray((max(len(raw) - size + 1, 0),), kind, raw, 0, (1,))[at].astype(np.int64)

    u4 = order + "u4"

    def frame_end() -> Ints:
        return record + _RECORD_HEADER + take(u4, record + 8)

    header = _ETHERNET_HEADER + 20 + 20
    record = record[take(u4, record + 8) >= header]
    ip = record + _RECORD_HEADER + _ETHERNET_HEADER
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
    ip_length = np.where(announced == 0, take(u4, record + 12) - _ETHERNET_HEADER, ip_length)  # over 64 KiB
    tcp_header = (take("u1", tcp + 12) >> 4) * 4

    control = np.zeros(len(record), np.uint8)
    has_option = np.flatnonzero((tcp_header >= 28) & (tcp + 26 <= frame_end()))
    option = tcp[has_option] + 20
    is_control = (take("u1", option) == _MTCP_OPTION) & (take(">u2", option + 2) == _MTCP_EXID)
    control[has_option[is_control]] = take("u1", option[is_control] + 4) >> 4

    return pd.DataFrame(
        {
            "time_ns": take(u4, record) * 1_000_000_000 + take(u4, record + 4) * fraction_ns,
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
    )
