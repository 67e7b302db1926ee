"""The arithmetic of a move against a model that has no sequence numbers, only offsets in two byte streams."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mtcp import seq
from mtcp.errors import Reason
from mtcp.snapshot import (
    ApplicationSnapshot,
    KernelQueues,
    Refused,
    SoSnapshot,
    StateReply,
    TcpSnapshot,
    TcpState,
    advertised,
    clients_fin,
    compose,
    receive_window,
    send_window,
)

pytestmark = pytest.mark.unit
SO = SoSnapshot(0, 0, -1)
TCP = TcpSnapshot(1, 1, 7, 1460, 7, 7, 0, 65536, 65536, 65536, 0)


def stream(start: int, end: int) -> bytes:
    """The bytes [start, end) of a stream in which near bytes differ."""
    return bytes((offset * 7 + (offset >> 8)) & 0xFF for offset in range(start, end))


@dataclass(frozen=True)
class Model:
    """All in 64-bit offsets from the two origins, which have the sequence numbers `snd_isn` and `rcv_isn`."""

    snd_isn: int
    rcv_isn: int
    una: int
    nxt: int
    written: int
    snd_snapshot: int
    client_has: int
    """What the client reports."""
    rcv_snapshot: int
    copied: int
    received: int
    queue_from: int
    """Where what was read of the send queue begins."""
    snd_wnd: int = 65536

    def compose(self) -> StateReply:
        def out(offset: int) -> int:
            return seq.add(self.snd_isn, offset)

        def in_(offset: int) -> int:
            return seq.add(self.rcv_isn, offset)

        queues = KernelQueues(
            snd_una=out(self.una),
            snd_nxt=out(self.nxt),
            write_seq=out(self.written),
            sndq=stream(self.queue_from, self.written),
            rcv_nxt=in_(self.received),
            copied_seq=in_(self.copied),
            rcvq=stream(self.copied, self.received),
            write_offset=self.written,
            snapshot_offset=self.snd_snapshot,
        )
        application = ApplicationSnapshot(b"state", in_(self.rcv_snapshot), out(self.snd_snapshot))
        log = stream(self.rcv_snapshot, self.copied)
        return compose(
            out(self.client_has), application, queues, log, replace(TCP, snd_wnd=self.snd_wnd), SO, b"8 bytes!", 7
        )


@st.composite
def models(draw: st.DrawFn) -> Model:
    """A connection in any legal condition; the snapshot may be 20 GiB back."""
    small = st.integers(0, 300)
    isn = st.integers(0, seq.MODULUS - 1) | st.integers(-200, 200).map(lambda n: n % seq.MODULUS)
    una = draw(small | st.integers(0, 1 << 40))
    nxt = una + draw(small)
    written = nxt + draw(small)
    far_back = st.integers(0, min(written, 20 << 30))
    snd_snapshot = draw(st.integers(max(0, una - 300), written) | far_back.map(lambda n: written - n))
    client_has = draw(st.integers(max(0, una - 300), nxt))
    rcv_snapshot = draw(small | st.integers(0, 1 << 40))
    copied = rcv_snapshot + draw(small)
    needs_queue = snd_snapshot > una
    queue_from = draw(st.integers(una, max(una, client_has))) if needs_queue else written
    return Model(
        draw(isn), draw(isn), una, nxt, written, snd_snapshot, client_has, rcv_snapshot, copied,
        copied + draw(small), queue_from, draw(st.integers(0, 1 << 20)),
    )  # fmt: skip


@given(models())
@example(Model(0xFFFFFFFE, 0xFFFFFFFF, 0, 5, 9, 7, 3, 0, 2, 4, 0))  # both directions wrap inside the buffers
@example(Model(5, 5, 6 << 30, 6 << 30, 6 << 30, 0, 6 << 30, 0, 0, 0, 6 << 30))  # 6 GiB written since the snapshot
@example(Model(0, 0, 5, 10, 10, 5, 5, 0, 0, 0, 5))  # snapshot == snd_una == what the client has
@example(Model(0, 0, 5, 10, 10, 8, 8, 0, 0, 0, 5))  # snapshot == what the client has, beyond snd_una
def test_compose(m: Model) -> None:
    reply = m.compose()
    first = max(m.client_has, m.una)
    assert reply.snd_max_seen == seq.add(m.snd_isn, first)
    assert reply.write_buffer == stream(first, m.snd_snapshot)
    assert reply.snd_bytes_discard == max(0, first - m.snd_snapshot)
    assert reply.read_buffer == stream(m.rcv_snapshot, m.received)
    assert reply.rcv_state_length == m.received - m.rcv_snapshot
    assert reply.last_ack_sent == seq.add(m.rcv_isn, m.received)
    assert seq.add(reply.rcv_seq_snapshot, reply.rcv_state_length) == reply.last_ack_sent
    assert (reply.application_state, reply.key, reply.attempt) == (b"state", b"8 bytes!", 7)


@given(models())
def test_the_client_gets_each_byte_once(m: Model) -> None:
    """What it has, then the write buffer, then what the application writes again from its snapshot less the discard."""
    reply = m.compose()
    first = max(m.client_has, m.una)
    again = m.snd_snapshot + reply.snd_bytes_discard
    assert first + len(reply.write_buffer) == again


@given(models(), st.integers(1, 1 << 30))
def test_ahead(m: Model, excess: int) -> None:
    """The client cannot have what was never sent, even if it has been written."""
    with pytest.raises(Refused) as refused:
        replace(m, client_has=m.nxt + excess).compose()
    assert refused.value.reason is Reason.AHEAD


@given(models(), st.integers(1, 50))
def test_a_hole_in_the_read_log(m: Model, hole: int) -> None:
    assume(m.copied - m.rcv_snapshot >= hole)
    with pytest.raises(Refused) as refused:
        _with_log(m, stream(m.rcv_snapshot + hole, m.copied))
    assert refused.value.reason is Reason.LOG_OVERFLOW


def _with_log(m: Model, log: bytes) -> StateReply:
    rcv = KernelQueues(
        seq.add(m.snd_isn, m.una),
        seq.add(m.snd_isn, m.nxt),
        seq.add(m.snd_isn, m.written),
        stream(m.una, m.written),
        seq.add(m.rcv_isn, m.received),
        seq.add(m.rcv_isn, m.copied),
        stream(m.copied, m.received),
        m.written,
        m.snd_snapshot,
    )
    application = ApplicationSnapshot(b"", seq.add(m.rcv_isn, m.rcv_snapshot), 0)
    return compose(seq.add(m.snd_isn, m.client_has), application, rcv, log, TCP, SO, b"", 1)


@given(models())
def test_a_send_queue_that_lacks_what_is_needed(m: Model) -> None:
    first = max(m.client_has, m.una)
    assume(m.snd_snapshot > first)
    with pytest.raises(Refused) as refused:
        replace(m, queue_from=first + 1).compose()
    assert refused.value.reason is Reason.INVALID_STATE


@given(models(), st.integers(1, 1 << 40))
def test_a_snapshot_beyond_what_was_written(m: Model, beyond: int) -> None:
    with pytest.raises(Refused) as refused:
        replace(m, snd_snapshot=m.written + beyond).compose()
    assert refused.value.reason is Reason.INVALID_STATE


# -- windows: an edge once offered is not taken back


@given(models(), st.integers(0, 0xFFFF))
def test_send_window_reaches_the_furthest_edge_offered(m: Model, client_window: int) -> None:
    reply = m.compose()
    first = max(m.client_has, m.una)
    window = send_window(reply, seq.add(m.snd_isn, m.client_has), client_window)
    offered = (m.una + m.snd_wnd, m.client_has + (client_window << TCP.snd_wscale))
    assert window == max(0, *(edge - first for edge in offered))


@given(
    st.integers(0, seq.MODULUS - 1),
    st.integers(0, 0xFFFF),
    st.integers(0, 14),
    st.integers(0, 1 << 20),
)
@example(0, 512, 7, 1)  # 64 KiB offered, one byte used: 511 units would take 127 bytes back
def test_receive_window_never_shrinks(rcv_wup: int, units: int, wscale: int, received: int) -> None:
    offered = units << wscale
    assume(received <= offered)
    tcp = replace(TCP, rcv_wscale=wscale, rcv_wnd=offered, rcv_wup=rcv_wup)
    base = Model(0, rcv_wup, 0, 0, 0, 0, 0, received, received, received, 0).compose()
    reply = replace(base, tcp_snapshot=tcp)
    window = receive_window(reply)
    assert 0 <= window <= 0xFFFF
    left = offered - received
    assert left <= window << wscale < left + (1 << wscale)


def test_receive_window_that_was_overrun() -> None:
    reply = Model(0, 0, 0, 0, 0, 0, 0, 10, 10, 10, 0).compose()
    assert receive_window(replace(reply, tcp_snapshot=replace(TCP, rcv_wnd=5, rcv_wup=0))) == 0


# -- half closed


def half_closed(client_rcv_nxt: int, **queues: bool) -> StateReply:
    """400 bytes were read of 500, all 1000 were written, 900 acknowledged; exported at 300 and 1000 or 950."""
    ended, before = queues.pop("ended", False), queues.pop("before", False)
    snd_snapshot = 950 if before else 1000
    kernel = KernelQueues(
        snd_una=900,
        snd_nxt=1000,
        write_seq=1000,
        sndq=stream(900, 1000),
        rcv_nxt=500,
        copied_seq=400,
        rcvq=stream(400, 500),
        write_offset=1000,
        snapshot_offset=snd_snapshot,
        **queues,
    )
    application = ApplicationSnapshot(b"", 300, snd_snapshot, ended)
    return compose(client_rcv_nxt, application, kernel, stream(300, 400), replace(TCP, rcv_wup=501), SO, b"8 bytes!", 7)


def test_the_clients_fin_follows_its_data() -> None:
    reply = half_closed(900, fin_received=True)
    assert (reply.last_ack_sent, reply.read_buffer) == (501, stream(300, 500))
    assert reply.fin_received and not reply.fin_sent
    assert (reply.tcp_snapshot.rcv_wup, reply.tcp_snapshot.rcv_wnd) == (500, TCP.rcv_wnd + 1)
    assert (reply.tcp_snapshot.t_state, reply.ended) == (TcpState.CLOSE_WAIT, False)


def test_our_fin_follows_the_write_buffer_when_the_state_is_of_after_it() -> None:
    reply = half_closed(900, fin_sent=True, ended=True)
    assert (reply.snd_max_seen, reply.write_buffer, reply.snd_bytes_discard) == (900, stream(900, 1000), 0)
    assert reply.fin_sent and reply.ended and reply.tcp_snapshot.t_state == TcpState.FIN_WAIT1


def test_an_application_that_exported_before_ends_its_stream_again() -> None:
    reply = half_closed(900, fin_sent=True, before=True)
    assert (reply.write_buffer, reply.fin_sent, reply.ended) == (stream(900, 950), False, False)


@pytest.mark.parametrize("queues", [{"fin_acked": True}, {}])
def test_a_fin_that_the_client_has_is_sent_again_from_where_it_was(queues: dict[str, bool]) -> None:
    """Whether the acknowledgement has arrived or is what the client reports."""
    reply = half_closed(1001, fin_sent=True, before=True, **queues)
    assert (reply.snd_max_seen, reply.snd_bytes_discard, reply.write_buffer) == (1000, 50, b"")
    assert reply.fin_sent and not reply.ended


def test_both_fins() -> None:
    assert half_closed(900, fin_sent=True, fin_received=True, ended=True).tcp_snapshot.t_state == TcpState.LAST_ACK


def test_a_client_that_claims_a_fin_that_was_not_sent() -> None:
    with pytest.raises(Refused) as refused:
        half_closed(1001)
    assert refused.value.reason is Reason.AHEAD


def test_where_the_new_server_says_that_it_starts() -> None:
    window = receive_window(half_closed(900))
    assert advertised(half_closed(900)) == (900, 500, window)
    assert advertised(half_closed(900, fin_sent=True, ended=True))[0] == 900  # what is in the write buffer is first
    assert advertised(half_closed(1001, fin_sent=True, before=True))[0] == 1001


def test_the_clients_fin_as_it_would_have_come() -> None:
    reply = half_closed(900, fin_received=True)
    window = send_window(reply, 900, 50)
    assert clients_fin(reply, 900, 50) == (500, 900, window >> reply.tcp_snapshot.snd_wscale)
    assert clients_fin(reply, 900, 0xFFFF)[2] == 0xFFFF


def test_what_a_move_ships() -> None:
    """As events and the bound on it reckon: without the numbers."""
    reply = half_closed(900)
    assert reply.size == sum(map(len, (reply.application_state, reply.write_buffer, reply.read_buffer))) > 0
