"""A flood of forged moves, for tests: SYNs with MIGRATE whose MACs are wrong, from one address or from many.

    python -m testbed.attack 10.0.0.2:7001 --old 10.0.0.1 --rate 2000 --seconds 10 [--sources many]

It works on a host of the testbed only, never where process 1 is at home, and within LIMITS. Each segment is another
attempt: its own port, number and MAC. Prints how many were sent.
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mtcp.address import Endpoint
from mtcp.wire import options
from mtcp.wire.options import Migrate
from testbed import sandbox
from testbed.errors import TestbedError

SPOOFED = "10.0.0.0/24"
"""Sources, when there are many: as if they were hosts of the service network."""
_MAC_AT = -8
"""From the option's end (mtcp.wire.moving)."""


@dataclass(frozen=True)
class Limits:
    """What is never exceeded."""

    rate: int = 20_000
    """Segments a second."""
    seconds: float = 60.0
    count: int = 200_000


LIMITS = Limits()


def refuse_outside() -> None:
    """TestbedError unless this is a host of a sandbox: not the machine's own network, nor the switches'."""
    try:
        own, first = (Path(f"/proc/{process}/ns/net").stat().st_ino for process in ("self", 1))
    except PermissionError:  # process 1 is none of a sandbox
        own = first = 0
    if not sandbox.inside() or own == first:
        raise TestbedError("this floods hosts of the testbed only: run it on one of them, inside a sandbox")


def segments(target: Endpoint, old: Endpoint, source: str, many: bool, seed: int) -> Iterator[bytes]:
    """IPv4 packets without end, from `source` or from addresses of SPOOFED."""
    from scapy.layers.inet import IP, TCP  # slow to import

    option = options.encode(Migrate(old, 0, 0))
    layers = IP(src=source, dst=target.ip) / TCP(
        sport=1024, dport=target.port, flags="S", window=64240, options=[(option[0], option[2:]), ("EOL", None)]
    )
    template = bytearray(bytes(layers))
    at = template.index(option)
    draw = random.Random(seed)
    prefix = SPOOFED.rpartition(".")[0]
    while True:
        if many:
            template[12:16] = socket.inet_aton(f"{prefix}.{draw.randrange(103, 255)}")
        struct.pack_into("!H", template, 20, draw.randrange(1024, 65536))
        struct.pack_into("!I", template, 24, draw.getrandbits(32))
        end = at + len(option)
        template[end + _MAC_AT - 8 : end] = (
            draw.randbytes(4) + struct.pack("!I", draw.randrange(1, 1000)) + draw.randbytes(8)
        )
        struct.pack_into("!H", template, 36, 0)
        struct.pack_into("!H", template, 36, _checksum(template))
        yield bytes(template)


def _checksum(packet: bytearray) -> int:
    """TCP's, over the pseudo header and a segment of even length."""
    data = packet[12:20] + struct.pack("!HH", socket.IPPROTO_TCP, len(packet) - 20) + packet[20:]
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def flood(packets: Iterator[bytes], target: str, rate: int, seconds: float) -> int:
    """Send at this pace for so long; how many were sent. ValueError beyond LIMITS, TestbedError outside a sandbox."""
    if not (0 < rate <= LIMITS.rate and 0 < seconds <= LIMITS.seconds and rate * seconds <= LIMITS.count):
        raise ValueError(f"no more than {LIMITS}")
    refuse_outside()
    sent, begun = 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        while (passed := time.monotonic() - begun) < seconds:
            for _ in range(min(int(rate * passed) + 1, int(rate * seconds)) - sent):
                out.sendto(next(packets), (target, 0))
                sent += 1
            time.sleep(0.001)
    return sent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="ADDRESS:PORT of the server that is flooded")
    parser.add_argument("--old", required=True, metavar="ADDRESS", help="of the server that is said to have them")
    parser.add_argument("--rate", type=int, default=2000, help="segments a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sources", choices=("one", "many"), default="one")
    parser.add_argument("--source", default="", help="the one source's address (default: this host's)")
    parser.add_argument("--seed", type=int, default=1)
    options_ = parser.parse_args()
    try:
        refuse_outside()
        ip, _, port = options_.target.rpartition(":")
        target = Endpoint(ip, int(port))
        source = options_.source or _own_address(target)
        packets = segments(
            target, Endpoint(options_.old, target.port), source, options_.sources == "many", options_.seed
        )
        next(packets)
        print("flooding", flush=True)
        print(flood(packets, ip, options_.rate, options_.seconds))
    except (TestbedError, ValueError, OSError) as error:
        print(f"attack: {error}", file=sys.stderr)
        return 1
    return 0


def _own_address(target: Endpoint) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(tuple(target))
        return str(probe.getsockname()[0])


if __name__ == "__main__":
    sys.exit(main())
