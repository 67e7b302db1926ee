"""The datapath on kernels without TCX: tc filters in the place of links. Here the kernel's refusal is made up."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtcp.linux.bpf import loader
from mtcp.linux.bpf.loader import AttachType, BpfError
from mtcp.linux.datapath import DatapathError
from tests.root.two_hosts import Network, accept, begin, find, read_exactly, run, take_over, two_hosts

pytestmark = pytest.mark.root


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    attach = loader.link_create

    def refuse_tcx(program: int, target: int, kind: AttachType) -> int:
        if kind in (AttachType.TCX_INGRESS, AttachType.TCX_EGRESS):
            raise BpfError(errno.EINVAL, "attach: no TCX before 6.6")
        return attach(program, target, kind)

    monkeypatch.setattr(loader, "link_create", refuse_tcx)
    with two_hosts(socket.AF_INET) as made:
        yield made


def tc(network: Network, *words: str) -> str:
    """What tc says on the client."""
    return subprocess.check_output(["tc", "-n", network.client.name, *words], text=True)


def programs(network: Network) -> list[str]:
    """What is attached to the client's interface, in the order in which it runs."""
    lines = [
        line for way in ("ingress", "egress") for line in tc(network, "filter", "show", "dev", "c0", way).split("\n")
    ]
    return [line.split(" handle 0x1 ")[1].split()[0] for line in lines if " handle 0x1 mtcp_" in line]


def test_a_connection_moves_and_nothing_is_left(network: Network) -> None:
    c, _ = network.attach()
    assert programs(network) == ["mtcp_ingress", "mtcp_icmp", "mtcp_egress"]
    client, s1 = network.connect(network.listener())
    entry = begin(c, find(c, client), network.s2)
    s2 = take_over(network, s1)
    accept(network, entry)
    s2.sendall(b"two")
    assert read_exactly(client, 3) == b"two"
    client.sendall(b"three")
    assert read_exactly(s2, 5) == b"three"
    c.detach()
    assert programs(network) == []


def test_pinned_ones_outlive_the_agent_and_are_replaced_by_the_next(network: Network, tmp_path: Path) -> None:
    run("mount", "-t", "bpf", "bpf", str(tmp_path))
    network.stack.callback(run, "umount", str(tmp_path))
    first = network.client.attach("c0", pin_dir=tmp_path / "mtcp", capacity=16)
    before = programs(network)
    first.close()
    assert programs(network) == before
    second = network.client.attach("c0", pin_dir=tmp_path / "mtcp")
    assert programs(network) == before
    assert second.capacity == 16
    second.detach()
    assert programs(network) == []


def test_an_ingress_discipline_of_somebody_is_left_alone(network: Network) -> None:
    tc(network, "qdisc", "add", "dev", "c0", "ingress")
    with pytest.raises(DatapathError, match="no other ingress qdisc on c0"):
        network.client.attach("c0")
    assert "ingress" in tc(network, "qdisc", "show", "dev", "c0")


def test_filters_of_others_go_on(network: Network) -> None:
    tc(network, "qdisc", "add", "dev", "c0", "clsact")
    match = "protocol ip u32 match ip protocol 1 0xff action mirred egress mirror dev lo"
    tc(network, "filter", "add", "dev", "c0", "egress", *match.split())
    network.client.attach("c0").detach()
    assert "u32" in tc(network, "filter", "show", "dev", "c0", "egress")
