"""Real moves as Wireshark shows them, message by message, against our own reading of the same captures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pandas as pd
import pytest
from scapy.utils import rdpcap

from analysis import capture
from mtcp.dissect.scapy_layers import option_of
from mtcp.wire.options import Subtype
from testbed import sandbox
from tests.root.scene import Scene
from tests.traces import eventually
from tests.wireshark import rows
from topologies.two_servers import running

pytestmark = [pytest.mark.sandbox(shared=True), pytest.mark.timeout(60 if sandbox.inside() else 300)]
MOVES = 3  # the last one to s2, which has the rest to send
FIELDS = ["frame.time_epoch", "ip.src", "tcp.srcport", "tcp.seq_raw", "tcp.ack_raw", "mtcp.subtype", "mtcp.attempt"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene | None]:
    # Fixtures are also made outside the sandbox, where no test runs.
    if not sandbox.inside():
        yield None
        return
    directory = tmp_path_factory.mktemp("wireshark")
    with running(bw=50, big=12_000_000, logs=directory) as net, Scene.of(net, directory) as scene:
        yield scene


def test_moves(scene: Scene) -> None:
    with scene.watched("moves"):
        client = scene.client("curl", "-sS", "http://s1/big")
        output = client.digest(held=1_000_000)
        [connection] = scene.wait_for_connections()
        assert eventually(lambda: scene.received(connection) > 0)  # from the first server
        outcomes = [scene.move(connection) for _ in range(MOVES)]
        client.tell()
        output.result()
    scene.judge(connection, outcomes)
    for host, packets in scene.evidence.items():
        pcap = scene.captures[host].path
        seen = rows(pcap, [*FIELDS, "mtcp.malformed", "_ws.col.Info"])
        assert not any("mtcp.malformed" in row for row in seen)

        ours = packets[packets["control"] >= capture.MIGRATE]
        control = [row for row in seen if int(row["mtcp.subtype"][0]) >= Subtype.MIGRATE]
        assert [_line(row) for row in control] == [_row(row) for row in ours.itertuples()]

        by_scapy = [option for packet in rdpcap(str(pcap)) if (option := option_of(packet)) is not None]
        assert [option.subtype for option in by_scapy] == [int(row["mtcp.subtype"][0]) for row in seen]
        attempts = [str(o.getlayer(1).attempt) for o in by_scapy if hasattr(o.getlayer(1), "attempt")]
        assert attempts == [a for row in seen for a in row.get("mtcp.attempt", [])]

        said = Counter(Subtype(int(row["mtcp.subtype"][0])) for row in seen)
        assert said[Subtype.CAPABLE] == (2 if host in ("client", "s1") else 0)
        for outcome in outcomes if host == "client" else []:
            text = f"MIGRATE attempt {outcome['attempt']} from {outcome['from']}, rcv_nxt="
            assert any(text in ",".join(row["_ws.col.Info"]) for row in seen), text


def _line(row: dict[str, list[str]]) -> tuple[int, ...]:
    seconds, fraction = row["frame.time_epoch"][0].split(".")
    numbers = (int(row[name][0]) for name in ("tcp.srcport", "tcp.seq_raw", "tcp.ack_raw", "mtcp.subtype"))
    return (int(seconds) * 10**9 + int(fraction.ljust(9, "0")), capture.address(row["ip.src"][0]), *numbers)


def _row(row: pd.Series) -> tuple[int, ...]:
    return (row.time_ns, row.src, row.sport, row.seq, row.ack, row.control)
