"""Where the next server is not on the link of the first: another interface of the client's, or a gateway."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from mtcp.address import Endpoint
from mtcp.linux.datapath import Datapath, Entry
from tests.root.two_hosts import (
    FAMILIES,
    Host,
    Network,
    accept,
    begin,
    find,
    made_host,
    read_exactly,
    run,
    segments,
    take_over,
    two_hosts,
)

pytestmark = pytest.mark.root

FAR = {  # network of the third host's link, its own address there, and the neighbour's
    socket.AF_INET: ("10.78.0.0/24", "10.78.0.3/24", "10.78.0.1/24"),
    socket.AF_INET6: ("fd78::/64", "fd78::3/64", "fd78::1/64"),
}


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    with two_hosts(request.param) as made:
        yield made


def third_host(network: Network, neighbour: Host) -> tuple[Host, Endpoint]:
    """A host on a link of its own to `neighbour`, who is its way to all others; and a server there."""
    _, far, near = FAR[network.family]
    host = network.stack.enter_context(made_host("far"))
    link = ("ip", "link", "add", "n0", "netns", neighbour.name, "type", "veth", "peer", "name", "f0")
    run(*link, "netns", host.name)
    for at, interface, address in ((neighbour, "n0", near), (host, "f0", far)):
        run("ip", "-n", at.name, "link", "set", interface, "up")
        run("ip", "-n", at.name, "address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
    run("ip", "-n", host.name, "route", "add", "default", "via", near.split("/")[0])
    return host, Endpoint(far.split("/")[0], 9000)


def behind_the_server(network: Network) -> tuple[Host, Endpoint]:
    """A third host, and a server there, to which the servers' host is the client's router."""
    host, server = third_host(network, network.server)
    run("ip", "-n", network.client.name, "route", "add", FAR[network.family][0], "via", network.s1.ip)
    for forwarding in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        run("ip", "netns", "exec", network.server.name, "sysctl", "-qw", f"{forwarding}=1")
    return host, server


def moves_there(network: Network, datapath: Datapath, host: Host, server: Endpoint) -> Entry:
    """A connection moves to the third host, bytes go both ways, and it comes back."""
    client, s1 = network.connect(network.listener())
    entry = begin(datapath, find(datapath, client), server)
    far = take_over(network, s1, server, host=host)
    accept(network, entry, host=host)
    far.sendall(b"down" * 100_000)
    assert read_exactly(client, 400_000) == b"down" * 100_000
    client.sendall(b"up" * 100_000)
    assert read_exactly(far, 200_000) == b"up" * 100_000
    entry = begin(datapath, find(datapath, client), network.s2)
    back = take_over(network, far, network.s2)
    accept(network, entry)
    back.sendall(b"back")
    assert read_exactly(client, 4) == b"back"
    client.sendall(b"here")
    assert read_exactly(back, 4) == b"here"
    return entry


def test_another_interface(network: Network) -> None:
    host, server = third_host(network, network.client)
    with network.client.inside():
        c = Datapath.attach(network.client.cgroup, ["c0", "n0"], capacity=16)
    network.stack.callback(c.close)
    s = network.server.attach("s0", capacity=16)
    network.stack.callback(s.close)
    s.listen(network.s1.port)
    tap = network.client.capture("c0")
    moves_there(network, c, host, server)
    assert not [x for x in segments(tap) if x.destination == server.ip]


def test_a_gateway_on_the_same_link(network: Network) -> None:
    host, server = behind_the_server(network)
    c, _ = network.attach()
    moves_there(network, c, host, server)


def test_no_way_to_the_server_is_said(network: Network) -> None:
    c, _ = network.attach()
    client, _ = network.connect(network.listener())
    server = Endpoint(FAR[network.family][1].split("/")[0], 9000)
    with pytest.raises(ValueError, match="no route"):
        begin(c, find(c, client), server)
    third_host(network, network.client)
    with pytest.raises(ValueError, match="not attached"):
        begin(c, find(c, client), server)


def test_a_smaller_mtu_on_the_way(network: Network) -> None:
    """A router behind the client's link says that packets are too big: the client's kernel takes it for itself."""
    host, server = behind_the_server(network)
    run("ip", "-n", network.server.name, "link", "set", "n0", "mtu", "1300")
    run("ip", "-n", host.name, "link", "set", "f0", "mtu", "1300")
    c, _ = network.attach()
    client, s1 = network.connect(network.listener())
    entry = begin(c, find(c, client), server)
    far = take_over(network, s1, server, host=host)
    accept(network, entry, host=host)
    data = os.urandom(1_000_000)
    upload = threading.Thread(target=client.sendall, args=(data,))
    upload.start()
    assert read_exactly(far, len(data)) == data
    upload.join()
    assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) < 1300
    far.sendall(b"down")
    assert read_exactly(client, 4) == b"down"
