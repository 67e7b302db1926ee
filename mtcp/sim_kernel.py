"""What `mtcp.sim` models of a server besides its agent: a kernel's TCP, and an application that echoes, changed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mtcp import seq
from mtcp.capsule import Capsule

QUEUE, LOG_SIZE = 64, 100
_CHANGED = bytes(byte ^ 0x5A for byte in range(256))


def echo(data: bytes) -> bytes:
    """What the application answers."""
    return data.translate(_CHANGED)


@dataclass(frozen=True)
class Data:
    """A segment of the connection."""

    seq: int
    ack: int
    payload: bytes


@dataclass
class Kernel:
    """One end's queues."""

    snd_una: int
    snd_nxt: int
    sndq: bytes
    rcv_nxt: int
    rcvq: bytes
    frozen: bool = False
    heard: bool = False

    @property
    def write_seq(self) -> int:
        return seq.add(self.snd_una, len(self.sndq))

    def segment(self, limit: int) -> Data:
        """What is not acknowledged, from its start on."""
        payload = self.sndq[:limit]
        self.snd_nxt = seq.latest(self.snd_nxt, seq.add(self.snd_una, len(payload)))
        return Data(self.snd_una, self.rcv_nxt, payload)

    def take(self, data: Data) -> None:
        """As RFC 9293: what acknowledges bytes that were never sent is dropped."""
        acked = seq.diff(data.ack, self.snd_una)
        if self.frozen or seq.after(data.ack, self.snd_nxt):
            return
        self.heard = True
        if acked > 0:
            self.snd_una, self.sndq = data.ack, self.sndq[acked:]
        have = seq.diff(self.rcv_nxt, data.seq)
        if 0 <= have < len(data.payload) and len(self.rcvq) < QUEUE:
            self.rcvq += data.payload[have:]
            self.rcv_nxt = seq.add(data.seq, len(data.payload))


class Application:
    """Echoes; its memory dies with it."""

    def __init__(self, kernel: Kernel, capsule: Capsule, random_: random.Random) -> None:
        self._kernel, self._capsule, self._random = kernel, capsule, random_
        self._pending = capsule.snapshot().state
        """Echoes not yet written."""

    def turn(self, exports: float) -> None:
        """Read, echo, and perhaps, with this probability, export."""
        r, kernel, capsule = self._random, self._kernel, self._capsule
        if len(self._pending) < QUEUE and kernel.rcvq:
            with capsule.log_space(1 + r.randrange(60)) as space:
                n = min(len(space) or 1, len(kernel.rcvq))
                data, kernel.rcvq = kernel.rcvq[:n], kernel.rcvq[n:]
                if space:
                    space[:n] = data
                    capsule.logged(n)
                else:
                    capsule.read_past_log(n)
            self._pending += echo(data)
        n = r.randrange(60)
        if capsule.swallow:
            n = min(n, capsule.swallow, len(self._pending))
            capsule.swallow -= n
        else:
            n = min(n, max(0, QUEUE - len(kernel.sndq)), len(self._pending))
            kernel.sndq += self._pending[:n]
            capsule.write_offset += n
        self._pending = self._pending[n:]
        if r.random() < exports:
            capsule.export(self._pending)
