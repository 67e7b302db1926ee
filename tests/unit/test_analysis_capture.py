"""Captures are read as they were written."""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import capture
from analysis.capture import ACK, SYN
from analysis.synthetic import START_NS, frame, mtcp_option, pcap

pytestmark = pytest.mark.unit

PACKETS = [
    (START_NS + 1_234_567, frame("10.0.0.10", "10.0.0.1", 43210, 80, 7, SYN, options=mtcp_option(2))),
    (
        START_NS + 2_345_678,
        frame("10.0.0.1", "10.0.0.10", 80, 43210, 2**32 - 1, ACK, 1448, b"\x01\x01\x08\x0a" + bytes(8)),
    ),
    (START_NS + 3_456_789, frame("10.0.0.1", "10.0.0.10", 80, 43210, 1447, ACK, 100_000)),
]


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("nanoseconds", [True, False])
def test_fields(tmp_path: Path, order: str, nanoseconds: bool) -> None:
    packets = capture.read(written(tmp_path, pcap(PACKETS, order, nanoseconds)))
    unit = 1 if nanoseconds else 1000
    assert packets["time_ns"].tolist() == [time // unit * unit for time, _ in PACKETS]
    assert packets["src"].tolist() == [capture.address(ip) for ip in ("10.0.0.10", "10.0.0.1", "10.0.0.1")]
    assert packets["dport"].tolist() == [80, 43210, 43210]
    assert packets["seq"].tolist() == [7, 2**32 - 1, 1447]
    assert packets["flags"].tolist() == [SYN, ACK, ACK]
    assert packets["window"].tolist() == [512] * 3
    assert packets["payload"].tolist() == [0, 1448, 100_000]  # the last is too long for IP's length field
    assert packets["control"].tolist() == [2, 0, 0]
    assert not packets.attrs["truncated"]


def test_ipv6(tmp_path: Path) -> None:
    ipv4 = frame("10.0.0.10", "10.0.0.1", 43210, 80, 7, ACK, 1000, mtcp_option(2))
    tcp = ipv4[34:]
    ends = [ipaddress.ip_address(text).packed for text in ("fd00::100", "2001:db8::ffff:0:0:1")]
    ipv6 = ipv4[:12] + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(tcp), 6, 64) + b"".join(ends) + tcp
    behind_others = ipv6[:20] + b"\x00" + ipv6[21:]  # hop-by-hop options
    packets = capture.read(written(tmp_path, pcap([(START_NS, ipv6), (START_NS, ipv4), (START_NS, behind_others)])))
    assert packets["src"].tolist() == [capture.address("fd00::100"), capture.address("10.0.0.10")]
    assert capture.address("fd00::100") == 256
    assert packets["dst"].tolist()[0] == capture.address("2001:db8::ffff:0:0:1") == 1 - 2**48
    assert packets["dport"].tolist() == [80, 80]
    assert packets["payload"].tolist()[0] == 1000
    assert packets["control"].tolist() == [2, 2]


def test_only_the_first_option_makes_a_control_segment(tmp_path: Path) -> None:
    late = frame("10.0.0.10", "10.0.0.1", 1, 80, 7, SYN, options=b"\x02\x04\x05\xb4" + mtcp_option(1))
    alien = frame("10.0.0.10", "10.0.0.1", 1, 80, 7, SYN, options=b"\xfd\x08\xf9\x89\x20\x00\x00\x00")
    packets = capture.read(written(tmp_path, pcap([(START_NS, late), (START_NS, alien)])))
    assert packets["control"].tolist() == [0, 0]


def test_other_packets_are_left_out(tmp_path: Path) -> None:
    good = PACKETS[0][1]
    arp = good[:12] + b"\x08\x06" + good[14:]
    udp = good[:23] + b"\x11" + good[24:]
    fragment = good[:20] + b"\x00\x10" + good[22:]
    runt = good[:40]
    packets = capture.read(written(tmp_path, pcap([(START_NS, x) for x in (arp, udp, fragment, runt, good)])))
    assert len(packets) == 1


def test_time_is_put_in_order(tmp_path: Path) -> None:
    packets = capture.read(written(tmp_path, pcap(PACKETS[::-1])))
    assert packets["seq"].tolist() == [7, 2**32 - 1, 1447]


@pytest.mark.parametrize("cut", [1, 100, 160 + 15])
def test_a_truncated_last_record_is_dropped_and_told(tmp_path: Path, cut: int) -> None:
    packets = capture.read(written(tmp_path, pcap([*PACKETS[:2], (START_NS, bytes(200))])[:-cut]))
    assert len(packets) == 2
    assert packets.attrs["truncated"]


@pytest.mark.parametrize("most", [1, 2, 3, 4])
@pytest.mark.parametrize("cut", [0, 5])
def test_reading_part_by_part_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, cut: int
) -> None:
    content = pcap(PACKETS)
    path = written(tmp_path, content[: len(content) - cut])
    whole = capture.read(path)
    monkeypatch.setattr(capture, "AT_ONCE", most)
    again = capture.read(path)
    pd.testing.assert_frame_equal(whole, again)
    assert whole.attrs == again.attrs == {"truncated": bool(cut)}


def test_an_empty_capture_has_no_rows(tmp_path: Path) -> None:
    packets = capture.read(written(tmp_path, pcap([])))
    assert packets.empty
    assert "payload" in packets.columns


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x0a\x0d\x0d\x0a" + bytes(40), "pcapng"),
        (b"GIF89a" + bytes(40), "not a pcap"),
        (b"", "not a pcap"),
        (pcap([])[:20], "ends inside"),
        (pcap([], linktype=113), "link type 113"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(capture.CaptureError, match=message):
        capture.read(written(tmp_path, content))


def test_unwrap_follows_wraps_and_reordering() -> None:
    seq = np.array([2**32 - 10, 5, 2**32 - 10, 2**30, 2**31, 3 * 2**30, 2**32 - 1, 20])
    expected = [0, 15, 0, 2**30 + 10, 2**31 + 10, 3 * 2**30 + 10, 2**32 + 9, 2**32 + 30]
    assert capture.unwrap(seq, 2**32 - 10).tolist() == expected
