"""What a client tells the next server that it has."""

from __future__ import annotations

import struct
from typing import cast

import pytest

from mtcp.address import FourTuple
from mtcp.agent.received import up_to_date
from mtcp.linux.bpf import layout
from mtcp.linux.bpf.asm import Field
from mtcp.linux.bpf.layout import ENTRY, SERVER, EntryState
from mtcp.linux.datapath import Entry, _entry_of
from mtcp.linux.sockdiag import SockDiag, TcpSocket
from tests.messages import CLIENT, S1

pytestmark = pytest.mark.unit

START, ACKNOWLEDGED, WINDOW, SCALE = 0xFFFFFF00, 0x100, 50, 7
"""0x200 bytes have been acknowledged."""


class Sockets:
    """A kernel that knows one socket."""

    def __init__(self, received: int | None) -> None:
        self._received = received

    def find(self, four_tuple: FourTuple) -> TcpSocket | None:
        if self._received is None:
            return None
        if self._received < 0:
            raise OSError("no answer")
        info = bytes([1, 0, 0, 0, 0, 0, SCALE << 4 | 3]) + bytes(121) + struct.pack("=Q", self._received)
        return TcpSocket(four_tuple, 1, 0, 0, info)


def entry(seq_max: int) -> Entry:
    values: dict[Field, int | bytes] = {
        ENTRY.WORD: EntryState.TRACKED,
        ENTRY.SOCKET: layout.tuple_key(FourTuple(CLIENT, S1)),
        ENTRY.RCV_START: START,
        ENTRY.RCV_NXT: ACKNOWLEDGED,
        ENTRY.WINDOW: WINDOW,
        ENTRY.SERVERS.part(SERVER.SEQ_MAX): seq_max,
    }
    return _entry_of(0, layout.pack(ENTRY.SIZE, values))


@pytest.mark.parametrize(
    ("received", "rcv_nxt", "window"),
    [
        (0x200, ACKNOWLEDGED, WINDOW),
        (0x201, ACKNOWLEDGED + 1, WINDOW - 1),
        (0x200 + 300, ACKNOWLEDGED + 300, WINDOW - 3),
        (0x200 + 60 * 128, ACKNOWLEDGED + 7000, 0),
        (0x100, ACKNOWLEDGED, WINDOW),
        (-1, ACKNOWLEDGED, WINDOW),
        (None, ACKNOWLEDGED, WINDOW),
    ],
    ids=["nothing more", "a byte", "a little", "more than was seen", "less", "no answer", "no socket"],
)
def test_what_is_not_acknowledged_counts(received: int | None, rcv_nxt: int, window: int) -> None:
    found = up_to_date(entry(ACKNOWLEDGED + 7000), cast(SockDiag, Sockets(received)))
    assert (found.rcv_nxt, found.window) == (rcv_nxt, window)
