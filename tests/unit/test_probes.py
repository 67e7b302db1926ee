"""What probes read is what the kernel said, and what they wrote is what analysis reads."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis import probes
from mtcp.linux import sockdiag, tcp_info
from testbed.probes import COLUMNS, _convert
from testbed.probes.__main__ import Changes
from testbed.probes.sources import counters, flat, qdisc_metrics, tcp_metrics

pytestmark = pytest.mark.unit

# Recorded from Linux 6.18, together with what ss and tc said.
LISTENER = bytes.fromhex("""
    0a0a00001f900000000000000000000000000000000000000000000000000000000000000000000000000000e18f00000000000000000000
    0000000080000000000000008c305700050008000000000005000b000000000008000f00000000000c001500802f05000000000006001600
    120000001c0102000a0000000000000000000000000000000000000000000000000000008000000000000000000000000000000000000000
    00000000000000000000000000000000000000000000000000000000000000000a0000000000000003000000000000000000000000000000
    ffffffffffffffffffffffffffffffff00000000000000000000000000000000000000000000000000000000000000000000000000000000
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
    0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
    0000000000000000
""")
CONNECTION = bytes.fromhex("""
    0a0100001f909c4000000000000000000000ffff7f00000100000000000000000000ffff7f00000100000000e28f00000000000000000000
    0000000000000000000000008e305700050008000000000008000f00000000000c001500802f05000000000006001600120000001c010200
    010000000007aa00e01c030000000000a8050000180200000000000000000000000000000000000000000000380100000000000038010000
    38010000dc05000058fa000097000000ca000000b40000002e030000a805000003000000000000009038000000000000801100050f000000
    ffffffffffffffffc0c62d00000000000000000000000000190800002000000000000000010000000000000019080000b9d8519900000000
    0000000000000000000000000000000000000000000000001a08000000000000c0c62d000000000000000000000000000000000000000000
    0000000000cc2200000001000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
""")
QUEUE = bytes.fromhex("""
    000000000300000000000700ffffffff0300000008000100746266002c00020028000100000100000000000048e801000000000000000000
    00000000a0860100389c1c000000000005000c0000000000300007001400010076440000000000000f000000000000001800030030000000
    600e01000000000000000000360000002c00030076440000000000000f0000000000000036000000000000000000000030000000600e0100
    00000000
""")
SNMP = """\
Icmp: InMsgs OutMsgs
Icmp: 0 3
Tcp: RtoAlgorithm MaxConn ActiveOpens
Tcp: 1 -1 4
"""
A, B = "10.0.0.1:80 10.0.0.10:1", "10.0.0.1:80 10.0.0.10:2"


def test_a_connection_is_read_as_ss_reads_it() -> None:
    found = sockdiag.parse(CONNECTION)
    assert str(found.connection) == "127.0.0.1:8080 -> 127.0.0.1:40000", "IPv4-mapped addresses are IPv4"
    assert (found.state, found.receive_queue, found.send_queue) == (1, 0, 0)
    info = tcp_info.parse(found.info)
    said = {
        "rto": 204_000, "rtt": 151, "rttvar": 202, "snd_mss": 1448, "pmtu": 1500, "rcv_mss": 536, "advmss": 1448,
        "snd_cwnd": 814, "snd_ssthresh": 180, "bytes_sent": 3_000_000, "bytes_acked": 3_000_000, "segs_out": 2073,
        "segs_in": 32, "data_segs_out": 2073, "pacing_rate": 516_067_200_000 // 8, "delivered": 2074,
        "delivery_rate": 20_578_223_560 // 8, "rcv_space": 14480, "rcv_ssthresh": 64088, "min_rtt": 1,
        "snd_wnd": 2_280_448, "total_retrans": 0,
    }  # fmt: skip
    assert {name: info[name] for name in said} == said
    metrics = tcp_metrics(found)
    assert (metrics["snd_cwnd"], metrics["receive_queue"]) == (814, 0)


def test_a_listener_has_its_queue_alone() -> None:
    found = sockdiag.parse(LISTENER)
    assert str(found.connection) == "[::]:8080 -> [::]:0"
    assert tcp_metrics(found) == {"state": sockdiag.TCP_LISTEN, "receive_queue": 0, "send_queue": 128}


def test_an_older_kernel_tells_less() -> None:
    info = sockdiag.parse(CONNECTION).info
    whole = tcp_info.parse(info)
    assert list(whole) == list(tcp_info.FIELDS)
    assert tcp_info.parse(b"") == {}
    for size in range(len(info)):
        part = tcp_info.parse(info[:size])
        assert part.items() <= whole.items()
    assert list(tcp_info.parse(info[:104]))[-1] == "total_retrans", "Linux 2.6"
    assert list(tcp_info.parse(info[:103]))[-1] == "rcv_space"


def test_an_unlimited_rate_is_infinite() -> None:
    found = sockdiag.parse(CONNECTION)
    at = 8 + 24 * 4
    unlimited = found._replace(info=found.info[:at] + b"\xff" * 8 + found.info[at + 8 :])
    assert tcp_metrics(unlimited)["pacing_rate"] == float("inf")


def test_a_queue_is_read_as_tc_reads_it() -> None:
    said = {"bytes": 17526, "packets": 15, "qlen": 48, "backlog": 69216, "drops": 0, "requeues": 0, "overlimits": 54}
    assert qdisc_metrics(QUEUE) == ("tbf", said)


def test_netlink_messages_and_attributes_end_where_they_say() -> None:
    one, two = b"\x15\0\0\0\x14\0\2\0" + bytes(8) + b"12345" + bytes(3), b"\x10\0\0\0\3\0\2\0" + bytes(8)
    assert list(sockdiag.messages(one + two)) == [(20, b"12345"), (3, b"")]
    assert list(sockdiag.messages(bytes(16))) == [(0, b"")], "a length of 0 is no endless loop"
    assert list(sockdiag.attributes(b"xxxx\5\0\1\0A\0\0\0\4\0\2\0", 4)) == [(1, b"A"), (2, b"")]
    assert len(list(sockdiag.attributes(bytes(8), 0))) == 2


def test_texts() -> None:
    assert dict(counters(SNMP)) == {
        "Icmp": {"InMsgs": 0, "OutMsgs": 3},
        "Tcp": {"RtoAlgorithm": 1, "MaxConn": -1, "ActiveOpens": 4},
    }
    assert flat("usage_usec 5\nnr_throttled 0\n") == {"usage_usec": 5, "nr_throttled": 0}
    for name in ("netstat", "snmp"):
        groups = dict(counters(Path("/proc/self/net", name).read_text()))
        assert groups, "this machine's own can be read"


def written(path: Path) -> Path:
    """Three samples: A changes one of its metrics, B comes and goes and comes again."""
    changes = Changes("s1")
    samples = [
        {("tcp", A): {"cwnd": 10, "rtt": 5}},
        {("tcp", A): {"cwnd": 20, "rtt": 5}, ("tcp", B): {"cwnd": 1, "rtt": float("inf")}},
        {("tcp", A): {"cwnd": 20, "rtt": 5}},
        {("tcp", A): {"cwnd": 20, "rtt": 5}, ("tcp", B): {"cwnd": 1, "rtt": 2}},
    ]
    rows = [",".join(COLUMNS) + "\n"]
    for number, found in enumerate(samples):
        rows += changes.rows(number * 100, found)
        rows += [f"{number * 100},s1,sampler,,late_us,3\n"]
    path.write_text("".join(rows))
    return path


def test_what_has_not_changed_is_written_once_and_read_at_every_sample(tmp_path: Path) -> None:
    samples = probes.read(written(tmp_path / "probes-s1.csv"))
    assert list(samples.columns) == list(COLUMNS) == probes.COLUMNS
    tcp = samples[samples["probe"] == "tcp"]
    assert len(tcp) == 2 + 3 + 1 + 2
    table = probes.table(samples, "tcp", "s1")
    assert table.loc[A].to_dict("list") == {"cwnd": [10, 20, 20, 20], "rtt": [5, 5, 5, 5]}
    assert table.loc[B].to_dict("list") == {"cwnd": [1, 1], "rtt": [float("inf"), 2]}
    assert table.loc[B].index.tolist() == [100, 300]
    pd.testing.assert_frame_equal(probes.table(samples, "tcp", "s1", B), table.loc[[B]], check_exact=True)
    assert probes.table(samples, "qdisc", "s1").empty
    assert probes.table(samples, "tcp", "s2").empty


def test_parquet_and_csv_are_the_same(tmp_path: Path) -> None:
    csv, parquet = written(tmp_path / "probes-s1.csv"), tmp_path / "probes-s1.parquet"
    _convert(csv, parquet)
    pd.testing.assert_frame_equal(probes.read(csv), probes.read(parquet), check_categorical=False)
    assert probes.files(tmp_path) == [csv, parquet]
    assert len(probes.read(csv, parquet)) == 2 * len(probes.read(csv))


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "probes-s1.csv")
    whole = probes.read(path)
    path.write_bytes(path.read_bytes()[:-1])
    cut = probes.read(path)
    assert len(cut) == len(whole) - 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"a,b\n1,2\n", "the columns are a, b, not monotonic_ns"),
        ("x.csv", b"", "has no samples"),
        ("x.csv", f"{','.join(COLUMNS)}\nnow,s1,tcp,,x,1\n".encode(), "times are whole numbers"),
        ("x.csv", f"{','.join(COLUMNS)}\n1,s1,tcp,,x,much\n".encode(), "much"),
        ("x.parquet", b"GIF89a", "has no samples"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(probes.ProbeError, match=message):
        probes.read(tmp_path / name)
