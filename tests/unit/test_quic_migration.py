"""What QUIC's connection migration can do, and what it cannot: why `quic` in the experiments is a new connection.

RFC 9000 section 9: only clients migrate; what reaches a client from an address that is not its server's is thrown away.
The one exception is an address that the server names in the handshake (section 9.6), before anybody knows of a fault,
and it leads to whoever has the connection's keys. There is no frame that moves it later (section 19).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived
from aioquic.quic.logger import QuicLogger
from aioquic.quic.packet import (
    QuicPreferredAddress,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)

from testbed import certificates, quic

pytestmark = pytest.mark.unit

HOME, ABROAD = ("10.0.0.100", 5000), ("10.9.9.9", 6000)
S1, S2 = ("10.0.0.1", 443), ("10.0.0.2", 443)
SIZE = 100_000


class Preferring(QuicConnection):
    """A server that names S2 in its handshake."""

    def _serialize_transport_parameters(self) -> bytes:
        parameters = pull_quic_transport_parameters(Buffer(data=super()._serialize_transport_parameters()))
        self._replenish_connection_ids()
        mine = self._host_cids[1]
        parameters.preferred_address = QuicPreferredAddress(S2, None, mine.cid, mine.stateless_reset_token)
        mine.was_sent = True
        buffer = Buffer(capacity=4096)
        push_quic_transport_parameters(buffer, parameters)
        return buffer.data


class Wire:
    """A client and a server, each step a millisecond apart. What happened, by end."""

    def __init__(self, directory: Path, server: type[QuicConnection] = QuicConnection) -> None:
        credentials = certificates.make(directory, [S1[0]])
        asking, self.configured = quic.configuration(client=True), quic.configuration(client=False)
        asking.server_name = S1[0]
        asking.load_verify_locations(str(credentials.certificate))
        asking.quic_logger = self.log = QuicLogger()
        self.configured.load_cert_chain(*credentials)
        self.client = QuicConnection(configuration=asking)
        first = self.client.original_destination_connection_id
        self.server = server(configuration=self.configured, original_destination_connection_id=first)
        self.now = 0.0
        self.client_is, self.server_is = HOME, S1
        self.happened: dict[str, list[Any]] = {"client": [], "server": []}
        self.sent_to: list[Any] = []
        """Where the server and the client have sent something, in order."""
        self.client.connect(S1, now=self.now)
        self.step(10)
        assert any(isinstance(event, HandshakeCompleted) for event in self.happened["client"])

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 0.001
            for end in (self.client, self.server):
                timer = end.get_timer()
                if timer is not None and timer <= self.now:
                    end.handle_timer(self.now)
            for data, address in self.client.datagrams_to_send(self.now):
                self.sent_to.append(address)
                self.server.receive_datagram(data, self.client_is, self.now)
            if self.server.get_peer_address() is None:
                continue  # nobody it knows
            for data, address in self.server.datagrams_to_send(self.now):
                self.sent_to.append(address)
                self.client.receive_datagram(data, self.server_is, self.now)
            for name, end in (("client", self.client), ("server", self.server)):
                self.happened[name] += iter(end.next_event, None)

    def answer(self) -> None:
        """The client asks, and the server hands its answer over."""
        stream = self.client.get_next_available_stream_id()
        self.client.send_stream_data(stream, b"?", end_stream=True)
        self.step()
        self.server.send_stream_data(stream, bytes(SIZE), end_stream=True)

    def received(self) -> int:
        return sum(len(event.data) for event in self.happened["client"] if isinstance(event, StreamDataReceived))

    def ended(self) -> bool:
        return any(isinstance(event, ConnectionTerminated) for each in self.happened.values() for event in each)

    def strange(self) -> int:
        """Packets that the client has thrown away for where they came from."""
        events = [event for trace in self.log.to_dict()["traces"] for event in trace["events"]]
        return sum(event["data"].get("trigger") == "unknown_server_address" for event in events)


@pytest.mark.parametrize("address", [ABROAD, (HOME[0], ABROAD[1])], ids=["address", "port"])
def test_a_client_moves_and_keeps_its_connection(tmp_path: Path, address: tuple[str, int]) -> None:
    wire = Wire(tmp_path)
    wire.answer()
    wire.step(3)
    assert 0 < wire.received() < SIZE and set(wire.sent_to) == {HOME, S1}
    wire.client_is = address
    wire.client.change_connection_id()
    wire.step(200)
    assert wire.received() == SIZE and not wire.ended()
    assert wire.server.get_peer_address() == address and wire.sent_to[-1] in (address, S1)
    (path, *_) = wire.server._network_paths
    assert path.addr == address and path.is_validated, "by PATH_CHALLENGE"


def test_what_comes_from_another_server_s_address_is_thrown_away(tmp_path: Path) -> None:
    """Even from the very server, with the connection's keys and all its state: better off than any other server is."""
    wire = Wire(tmp_path)
    wire.answer()
    wire.step(3)
    got = wire.received()
    assert not wire.strange()
    wire.server_is = S2
    wire.step(500)
    assert wire.received() == got < SIZE
    assert wire.strange() > 10 and wire.client.get_peer_address() == S1
    wire.server_is = S1  # nothing else was wrong
    wire.step(3000)
    assert wire.received() == SIZE and not wire.ended()


def test_another_server_cannot_read_what_is_not_its_own(tmp_path: Path) -> None:
    """The client's packets reach a server with the same certificate, from the address that the client knows."""
    wire = Wire(tmp_path)
    wire.answer()
    wire.step(3)
    got, first = wire.received(), wire.client.original_destination_connection_id
    wire.server = QuicConnection(configuration=wire.configured, original_destination_connection_id=first)
    wire.sent_to.clear()
    wire.client.send_ping(1)
    wire.step(500)
    assert wire.received() == got < SIZE and HOME not in wire.sent_to, "not a word"


def test_a_server_may_name_one_other_address_in_the_handshake(tmp_path: Path) -> None:
    wire = Wire(tmp_path, Preferring)
    assert S2 in wire.sent_to
    wire.server_is = S2
    wire.step(50)
    assert wire.client.get_peer_address() == S2 and not wire.ended()
    wire.answer()
    wire.step(200)
    assert wire.received() == SIZE


def test_there_is_no_frame_that_names_an_address(tmp_path: Path) -> None:
    """After the handshake of the plain server, the client knows of one address, and nothing can tell it of another."""
    wire = Wire(tmp_path)
    wire.step(100)
    assert {*wire.sent_to} == {HOME, S1} and [path.addr for path in wire.client._network_paths] == [S1]
