"""What a client's kernel has received is known, be it acknowledged or not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from mtcp import seq
from mtcp.agent.received import up_to_date
from mtcp.linux.sockdiag import SockDiag
from tests.root.two_hosts import FAMILIES, Network, find, numbers, two_hosts, until

pytestmark = pytest.mark.root

PIECE, TRIES = 500, 100


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    with two_hosts(request.param) as made:
        yield made


def test_before_it_is_acknowledged(network: Network) -> None:
    datapath, _ = network.attach()
    client, server = network.connect(network.listener())
    index = find(datapath, client).index
    with network.client.inside():
        sockets = SockDiag()
    for sent in range(PIECE, PIECE * TRIES, PIECE):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # it may wait
        server.sendall(bytes(PIECE))
        until(lambda: len(client.recv(PIECE * TRIES, socket.MSG_PEEK)) == sent)  # noqa: B023
        entry = datapath.entry(index)
        found = up_to_date(entry, sockets)
        snd_nxt = numbers(server)[1]
        assert found.rcv_nxt == snd_nxt
        if seq.before(entry.rcv_nxt, snd_nxt):
            assert found.window <= entry.window
            return
    pytest.fail("all that came was acknowledged at once")
