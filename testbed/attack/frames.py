"""A batch of TCP segments in Ethernet frames: copies of one template, in which some fields then differ."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

import numpy as np
from numpy.typing import NDArray

from testbed import generators

Bytes = NDArray[np.uint8]

IP_AT, TCP_AT = 14, 34
"""Offsets of the headers in a frame: no VLAN tag, no IP options."""
_IP_CHECKSUM, _TCP_CHECKSUM = (IP_AT + 10) // 2, (TCP_AT + 16) // 2  # in 16-bit words
FIRST_PORT = 1024


class Frames:
    """`rows`: the frames, one a row. `draw`: the random numbers of their fields, the same for the same seed.

    What differs is in the headers: the data, if any, is the template's.
    """

    def __init__(self, template: bytes, size: int, seed: int, vary: Callable[[Frames], None]) -> None:
        """`template`: Ethernet, IPv4 without options, TCP; of even length. `vary` fills in what differs."""
        if len(template) % 2 or template[IP_AT] != 0x45 or template[IP_AT + 9] != socket.IPPROTO_TCP:
            raise ValueError("a template is Ethernet, IPv4 without options and TCP, of even length")
        self.rows: Bytes = np.tile(np.frombuffer(template, np.uint8), (size, 1))
        self.draw = np.random.default_rng(seed)
        self._vary = vary
        self._data_at = TCP_AT + (template[TCP_AT + 12] >> 4) * 4
        self._data = np.frombuffer(template[self._data_at :], np.uint16).sum(dtype=np.uint32)
        self.renew()

    def renew(self) -> None:
        """Other fields in all frames, and the checksums they need."""
        self._vary(self)
        self._checksums()

    def put(self, at: int, values: Bytes) -> None:
        """Write the rows of `values` at offset `at` of the frames."""
        self.rows[:, at : at + values.shape[1]] = values

    def put_random(self, at: int, length: int) -> None:
        """Write random bytes."""
        self.put(at, self.draw.integers(0, 256, (len(self.rows), length), np.uint8))

    def put_between(self, at: int, kind: str, low: int, high: int) -> None:
        """Write numbers of the numpy type `kind` (">u2"), drawn from `low` to below `high`."""
        values = self.draw.integers(low, high, (len(self.rows), 1)).astype(kind)
        self.put(at, values.view(np.uint8))

    def put_sources(self, network: IPv4Network | None) -> None:
        """Other source addresses, of hosts of `network` (None: the template's), ports and sequence numbers."""
        if network is not None:
            first = int(network.network_address)
            self.put_between(IP_AT + 12, ">u4", first + 1, first + network.num_addresses - 1)
        self.put_between(TCP_AT, ">u2", FIRST_PORT, 1 << 16)
        self.put_random(TCP_AT + 4, 4)

    def _checksums(self) -> None:
        # The order of the bytes does not matter to ones' complement sums (RFC 1071 section 2).
        words = self.rows.view(np.uint16)
        words[:, [_IP_CHECKSUM, _TCP_CHECKSUM]] = 0
        ip, tcp, addresses = (
            words[:, IP_AT // 2 : TCP_AT // 2],
            words[:, TCP_AT // 2 : self._data_at // 2],
            words[:, 13:17],
        )
        words[:, _IP_CHECKSUM] = _complement(ip.sum(axis=1, dtype=np.uint32))
        pseudo = socket.htons(socket.IPPROTO_TCP) + socket.htons(self.rows.shape[1] - TCP_AT)
        total = (
            tcp.sum(axis=1, dtype=np.uint32) + addresses.sum(axis=1, dtype=np.uint32) + np.uint32(pseudo) + self._data
        )
        words[:, _TCP_CHECKSUM] = _complement(total)


def _complement(sums: NDArray[np.uint32]) -> NDArray[np.uint16]:
    for _ in range(2):
        sums = (sums >> 16) + (sums & 0xFFFF)
    return (~sums).astype(np.uint16)


def forged(sources: str) -> IPv4Network:
    """The network "10.0.0.128/25" that sources are drawn from; ValueError outside the testbed's."""
    network = IPv4Network(sources)
    if not any(network.version == of.version and network.subnet_of(of) for of in generators.ADDRESSES):
        raise ValueError(f"{network} is no network of the testbed ({generators.ADDRESSES[0]})")
    if network.num_addresses < 4:
        raise ValueError(f"{network} is too small to forge sources of")
    return network


def syn(addresses: dict[str, Any], options: list[tuple[Any, Any]], payload: int = 0) -> bytes:
    """A SYN in its frame. `addresses`: src_mac, dst_mac, src, dst, dport; `payload`: bytes, an even number."""
    from scapy.layers.inet import IP, TCP  # slow to import
    from scapy.layers.l2 import Ether

    frame = (
        Ether(src=addresses["src_mac"], dst=addresses["dst_mac"])
        / IP(src=addresses["src"], dst=addresses["dst"])
        / TCP(sport=FIRST_PORT, dport=addresses["dport"], flags="S", window=64240, options=options)
    )
    return bytes(frame / bytes(payload))
