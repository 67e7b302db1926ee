"""Captures that go on in several files, and those of several hosts, become one in order of time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from analysis import __main__, capture, merge
from analysis.capture import ACK
from analysis.synthetic import START_NS, frame, pcap

pytestmark = pytest.mark.unit
FIELDS = ("frame.time_epoch", "frame.interface_name", "tcp.seq_raw", "frame.len", "frame.cap_len")


def packet(ns: int, seq: int, payload: int = 0) -> tuple[int, bytes]:
    return (START_NS + ns, frame("10.0.0.10", "10.0.0.1", 43210, 80, seq, ACK, payload))


def shown(path: Path) -> list[list[str]]:
    """What Wireshark makes of the file."""
    fields = [word for field in FIELDS for word in ("-e", field)]
    run = subprocess.run(["tshark", "-n", "-r", str(path), "-T", "fields", *fields], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return [line.split("\t") for line in run.stdout.splitlines()]


def written(directory: Path, **files: list[tuple[int, bytes]]) -> None:
    for name, packets in files.items():
        (directory / name.replace("_", ".")).write_bytes(pcap(packets))


def test_a_capture_goes_on_in_numbered_files(tmp_path: Path) -> None:
    written(tmp_path, x_pcap=[packet(0, 0)], y_pcap=[packet(0, 99)], x_pcapng=[packet(0, 98)])
    written(tmp_path, **{f"x_pcap{n}": [packet(n, n), packet(n, n)] for n in range(1, 12)})
    assert [path.name for path in capture.files(tmp_path / "x.pcap")][-2:] == ["x.pcap10", "x.pcap11"]
    packets = capture.read(tmp_path / "x.pcap")
    assert packets["seq"].tolist() == [0, *(n for n in range(1, 12) for _ in range(2))]
    assert packets.index.tolist() == list(range(23))
    assert not packets.attrs["truncated"]
    cut = tmp_path / "x.pcap3"
    cut.write_bytes(cut.read_bytes()[:-1])
    packets = capture.read(tmp_path / "x.pcap")
    assert len(packets) == 22 and packets.attrs["truncated"]


@pytest.mark.parametrize("lost", ["x.pcap", "x.pcap1"])
def test_a_file_that_is_missing_in_between_is_told(tmp_path: Path, lost: str) -> None:
    written(tmp_path, x_pcap=[], x_pcap1=[], x_pcap2=[])
    (tmp_path / lost).unlink()
    with pytest.raises(capture.CaptureError, match=f"{lost} is missing"):
        capture.read(tmp_path / "x.pcap")
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError):
        capture.read(tmp_path / "x.pcap")


def test_merged_by_time_with_the_hosts_as_interfaces(tmp_path: Path) -> None:
    client = [packet(10, 1), packet(30, 3, payload=1), packet(20, 2), packet(1_000_000_123, 5)]
    written(
        tmp_path, client_pcap=client, s1_pcap=[packet(10, 11, payload=1448)], s1_pcap1=[packet(25, 12), packet(40, 4)]
    )
    assert __main__.main(["merge", str(tmp_path)]) == 0
    seconds = START_NS // 10**9
    assert shown(tmp_path / "all.pcapng") == [
        [f"{seconds}.000000010", "client", "1", "54", "54"],
        [f"{seconds}.000000010", "s1", "11", "1502", "160"],
        [f"{seconds}.000000020", "client", "2", "54", "54"],
        [f"{seconds}.000000025", "s1", "12", "54", "54"],
        [f"{seconds}.000000030", "client", "3", "55", "55"],
        [f"{seconds}.000000040", "s1", "4", "54", "54"],
        [f"{seconds + 1}.000000123", "client", "5", "54", "54"],
    ]


def test_more_packets_than_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 150
    monkeypatch.setattr(merge, "_AT_ONCE", 7)
    written(
        tmp_path, a_pcap=[packet(2 * n, n) for n in range(count)], b_pcap=[packet(2 * n + 1, n) for n in range(count)]
    )
    assert merge.merge(merge.of_directory(tmp_path), tmp_path / "all.pcapng") == (2 * count, [])
    seen = [(row[1], int(row[2])) for row in shown(tmp_path / "all.pcapng")]
    assert seen == [(host, n) for n in range(count) for host in "ab"]


def test_what_cannot_be_merged_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["merge", str(tmp_path)]) == 2
    assert "has no captures" in capsys.readouterr().err
    (tmp_path / "x.pcap").write_bytes(b"GIF89a")
    assert __main__.main(["merge", str(tmp_path)]) == 2
    assert "not a pcap" in capsys.readouterr().err
