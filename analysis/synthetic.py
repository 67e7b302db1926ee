"""Run directories with known answers, written packet by packet: for tests, and to try out the report.

A script calls the methods of `Download` in the order of time, in ms since the start, and then `write`.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.capture import ACCEPT, ACK, CAPABLE, MIGRATE, SYN

START_NS = 1_700_000_000_000_000_000
MONOTONIC_OFFSET_NS = START_NS - 5_000_000_000
SNAP_LENGTH = 160
HOSTS = {"client": "10.0.0.10", "s1": "10.0.0.1", "s2": "10.0.0.2"}
SERVICE_PORT, CLIENT_PORT = 80, 43210

_NOP = b"\x01"
_TIMESTAMPS = _NOP * 2 + bytes([8, 10]) + bytes(8)


def mtcp_option(subtype: int) -> bytes:
    """An M-TCP option of 8 bytes with that subtype."""
    return bytes([253, 8, 0x4D, 0x54, subtype << 4 | 1, 0, 0, 0])


def frame(
    src: str, dst: str, sport: int, dport: int, seq: int, flags: int, payload: int = 0, options: bytes = b"",
    ack: int = 0,
) -> bytes:  # fmt: skip
    """An Ethernet frame with an IPv4 TCP segment; a payload that IP's length cannot express makes that 0."""
    options += b"\x00" * (-len(options) % 4)
    head = (20 + len(options)) // 4 << 4
    tcp = struct.pack("!HHIIBBHHH", sport, dport, seq % 2**32, ack % 2**32, head, flags, 512, 0, 0)
    length = 40 + len(options) + payload
    addresses = socket.inet_aton(src) + socket.inet_aton(dst)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, length if length < 65536 else 0, 0, 0x4000, 64, 6, 0) + addresses
    return bytes(12) + b"\x08\x00" + ip + tcp + options + bytes(payload)


def pcap(packets: list[tuple[int, bytes]], order: str = "<", nanoseconds: bool = True, linktype: int = 1) -> bytes:
    """A pcap file of (time in ns, frame) pairs, each cut to SNAP_LENGTH."""
    magic, unit = (0xA1B23C4D, 1) if nanoseconds else (0xA1B2C3D4, 1000)
    parts = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, SNAP_LENGTH, linktype)]
    for time, data in packets:
        kept = data[:SNAP_LENGTH]
        seconds, fraction = divmod(time, 1_000_000_000)
        parts += [struct.pack(order + "IIII", seconds, fraction // unit, len(kept), len(data)), kept]
    return b"".join(parts)


@dataclass
class Download:
    """A download over one connection; `first` is the sequence number of its first byte."""

    first: int = 1000
    packets: dict[str, list[tuple[int, bytes]]] = field(default_factory=lambda: {name: [] for name in HOSTS})
    events: list[dict[str, Any]] = field(default_factory=list)

    def segment(
        self, ms: float, src: str, dst: str, seq: int, flags: int = ACK, payload: int = 0,
        options: bytes = b"", port: int = CLIENT_PORT, seen_by: tuple[str, ...] = (), ack: int = 0,
    ) -> None:  # fmt: skip
        """A segment between hosts (by name) in the captures of `seen_by`, else of both ends."""
        ports = (port, SERVICE_PORT) if src == "client" else (SERVICE_PORT, port)
        data = frame(HOSTS[src], HOSTS[dst], *ports, seq, flags, payload, options, ack)
        for host in seen_by or (src, dst):
            self.packets[host].append((START_NS + round(ms * 1e6), data))

    def handshake(self, ms: float, server: str = "s1", port: int = CLIENT_PORT) -> None:
        """SYN and SYN-ACK at that time, with CAPABLE behind an ordinary option."""
        options = bytes([2, 4, 5, 0xB4]) + mtcp_option(CAPABLE)
        self.segment(ms, "client", server, 77, SYN, options=options, port=port)
        self.segment(ms, server, "client", self.first - 1, SYN | ACK, options=options, port=port)

    def data(self, ms: float, server: str, offset: int, length: int) -> None:
        """Bytes [offset, offset + length) of the stream arrive."""
        self.segment(ms, server, "client", self.first + offset, ACK, length, _TIMESTAMPS)

    def acknowledge(self, ms: float, server: str, offset: int) -> None:
        """The client has the bytes before `offset`."""
        self.segment(ms, "client", server, 78, ACK, ack=self.first + offset)

    def control(self, ms: float, src: str, dst: str, subtype: int, flags: int = ACK) -> None:
        """A control segment without payload."""
        self.segment(ms, src, dst, 5, flags, options=mtcp_option(subtype))

    def move(self, syn_ms: float, accept_ms: float, to: str) -> None:
        """MIGRATE SYN and ACCEPT."""
        self.control(syn_ms, "client", to, MIGRATE, SYN)
        self.control(accept_ms, to, "client", ACCEPT, SYN | ACK)

    def report(self, decided_ms: float, source: str, to: str, **more: Any) -> None:
        """The agents' event of a committed migration; `more` overrides its fields."""
        decided = START_NS - MONOTONIC_OFFSET_NS + round(decided_ms * 1e6)
        event = {
            "event": "migration",
            "monotonic_ns": decided,
            "decided_ns": decided,
            "from": f"{HOSTS[source]}:{SERVICE_PORT}",
            "to": f"{HOSTS[to]}:{SERVICE_PORT}",
        }
        self.events.append(
            event | {"committed_ns": decided + 1_000_000, "outcome": "moved", "reason": "", "phases": {}} | more
        )

    def write(self, path: Path, record: dict[str, Any] | None = None, **facts: Any) -> Path:
        """The run directory at `path`; `record` and `facts` override parts of run.json."""
        path.mkdir(parents=True, exist_ok=True)
        moves = sum(event["event"] == "migration" for event in self.events)
        defaults: dict[str, Any] = {
            "hosts": HOSTS, "service_port": SERVICE_PORT, "client_port": CLIENT_PORT,
            "expected_sha256": "ab" * 32, "received_sha256": "ab" * 32, "client_exit": 0, "bytes": 1,
            "capture_drops": dict.fromkeys(HOSTS, 0),
        }  # fmt: skip
        run: dict[str, Any] = {
            "schema_version": 1, "scenario": "handover", "factors": {"migrations": moves},
            "realtime_minus_monotonic_ns": MONOTONIC_OFFSET_NS, "facts": defaults | facts,
        }  # fmt: skip
        (path / "run.json").write_text(json.dumps(run | (record or {})))
        (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in self.events))
        for host, packets in self.packets.items():
            (path / f"{host}.pcap").write_bytes(pcap(packets))
        return path


def many_moves(moves: int) -> Download:
    """1000 bytes a ms, a move every 10 ms that stalls the stream for 2 ms."""
    run, owner = Download(), "s1"
    run.handshake(0)
    for i in range(10 * (moves + 1)):
        run.data(1 + i, owner, 1000 * i, 1000)
        if i % 10 == 9 and i < 10 * moves:
            other = "s2" if owner == "s1" else "s1"
            run.report(1.2 + i, owner, other, phases={"request": 0.1, "dump_state": 0.2})
            run.move(1.3 + i, 1.5 + i, other)
            owner = other
    return run
