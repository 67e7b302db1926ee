"""Where probes read: each source tells its metrics, by subject (a connection, a queue, a control group …).

Values are the kernel's own, mostly counters. Parsing is separate from asking, so that it can be tested on bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mtcp.linux import tcp_info
from mtcp.linux.netstat import counters
from mtcp.linux.sockdiag import NLMSG_DONE, NLMSG_ERROR, TCP_LISTEN, SockDiag, TcpSocket, attributes, messages

Metrics = Mapping[str, float]

_SAMPLED = """
    state ca_state retransmits backoff rto rtt rttvar min_rtt snd_mss snd_cwnd snd_ssthresh snd_wnd rcv_wnd rcv_space
    unacked sacked lost retrans notsent_bytes bytes_sent bytes_acked bytes_retrans bytes_received segs_out segs_in
    total_retrans reord_seen rcv_ooopack dsack_dups total_rto pacing_rate delivery_rate busy_time rwnd_limited
    sndbuf_limited
"""
TCP_METRICS = _SAMPLED.split()
"""Fields of tcp_info that are sampled, beside `receive_queue` and `send_queue`, which is all that listeners have."""
_UNLIMITED = 2**64 - 1

_RTM_GETQDISC, _NLM_F_REQUEST, _NLM_F_DUMP = 38, 1, 0x300
_HEADER = struct.Struct("=IHHII")
_TCMSG = struct.Struct("=BxxxiIII")
_TCA_KIND, _TCA_STATS2, _TCA_STATS_BASIC, _TCA_STATS_QUEUE = 1, 7, 1, 3
_NO_QUEUES = ("ingress", "clsact")
_BASIC = struct.Struct("=QI")
_QUEUE = struct.Struct("=IIIII")


class Source(Protocol):
    """Something to be sampled."""

    name: str

    def read(self) -> Iterable[tuple[str, Metrics]]:
        """Every subject that is there now, and its metrics."""


class Tcp:
    """Connections and listeners of this network namespace; subjects are "LOCAL REMOTE"."""

    name = "tcp"

    def __init__(self, ports: Sequence[int] = ()) -> None:
        """Of those with one of these ports at either end; without any, of all."""
        self._ports = ports or (None,)
        self._diag = SockDiag()

    def read(self) -> Iterator[tuple[str, Metrics]]:
        for port in self._ports:
            for found in self._diag.dump(port):
                yield f"{found.connection.local} {found.connection.remote}", tcp_metrics(found)


def tcp_metrics(found: TcpSocket) -> Metrics:
    """The metrics of a socket; an unlimited rate is infinite."""
    queues: dict[str, float] = {"receive_queue": found.receive_queue, "send_queue": found.send_queue}
    if found.state == TCP_LISTEN or not found.info:
        return {"state": found.state, **queues}
    info = tcp_info.parse(found.info)
    metrics = {name: float("inf") if info[name] == _UNLIMITED else info[name] for name in TCP_METRICS if name in info}
    return metrics | queues


class Qdisc:
    """Queueing disciplines of interfaces of this network namespace; subjects are "INTERFACE KIND HANDLE:"."""

    name = "qdisc"

    def __init__(self, interfaces: Sequence[str]) -> None:
        """`interfaces`: names, or NAME=WHAT_TO_CALL_IT. Those that go away and come again are sampled again.

        OSError if there is no such interface.
        """
        self._called = {name: called or name for name, _, called in (each.partition("=") for each in interfaces)}
        for name in self._called:
            _index(name)
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

    def read(self) -> Iterator[tuple[str, Metrics]]:
        called = {}
        for name in self._called:
            with contextlib.suppress(OSError):
                called[_index(name)] = self._called[name]
        length = _HEADER.size + _TCMSG.size
        header = _HEADER.pack(length, _RTM_GETQDISC, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
        self._sock.send(header + _TCMSG.pack(0, 0, 0, 0, 0))
        while True:
            for kind, body in messages(self._sock.recv(1 << 16)):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, f"netlink: {os.strerror(number)}")
                index, handle = _TCMSG.unpack_from(body)[1:3]
                if index in called:
                    what, metrics = qdisc_metrics(body)
                    if what not in _NO_QUEUES:
                        yield f"{called[index]} {what} {handle >> 16:x}:", metrics


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise OSError(f"there is no interface {interface}") from None


def qdisc_metrics(body: bytes) -> tuple[str, Metrics]:
    """Kind and counters of a queueing discipline, from the body of a netlink message; backlog is in bytes."""
    found = dict(attributes(body, _TCMSG.size))
    stats = dict(attributes(found.get(_TCA_STATS2, b""), 0))
    metrics: dict[str, float] = {}
    if _TCA_STATS_BASIC in stats:
        metrics |= zip(("bytes", "packets"), _BASIC.unpack_from(stats[_TCA_STATS_BASIC]), strict=True)
    if _TCA_STATS_QUEUE in stats:
        names = ("qlen", "backlog", "drops", "requeues", "overlimits")
        metrics |= zip(names, _QUEUE.unpack_from(stats[_TCA_STATS_QUEUE]), strict=True)
    return found.get(_TCA_KIND, b"").rstrip(b"\0").decode(), metrics


class Cpu:
    """Control groups' cpu.stat; subjects are the groups' names, so that of a host in two hierarchies is one."""

    name = "cpu"

    def __init__(self, groups: Sequence[Path]) -> None:
        self._groups = groups

    def read(self) -> Iterable[tuple[str, Metrics]]:
        found: dict[str, dict[str, float]] = {}
        for group in self._groups:
            with contextlib.suppress(OSError):  # it is gone, or not yet there
                found.setdefault(group.name, {}).update(flat((group / "cpu.stat").read_text()))
        return found.items()


def flat(text: str) -> Metrics:
    """A file of "name value" lines, as control groups have them: microseconds (_usec), nanoseconds (_time), counts."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


class Netstat:
    """The counters of /proc/net/netstat and snmp; the subject is the group (TcpExt, Tcp, Ip …)."""

    name = "netstat"

    def __init__(self) -> None:
        self._files = [os.open(f"/proc/self/net/{name}", os.O_RDONLY) for name in ("netstat", "snmp")]

    def read(self) -> Iterator[tuple[str, Metrics]]:
        for file in self._files:
            yield from counters(os.pread(file, 1 << 16, 0).decode())
