"""What the topologies are, without bringing them up."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import pytest

from testbed import units
from testbed.links import LinkError
from topologies.building import ServiceTopo
from topologies.dos import Dos
from topologies.dumbbell import Dumbbell
from topologies.pool import PoolTopo
from topologies.two_servers import TwoServers
from topologies.wan import Wan

TOPOLOGIES = TwoServers, PoolTopo, Dumbbell, Dos, Wan
CONTROL = "10.1.0."


def ways(topo: ServiceTopo, start: str, control: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Links on the shortest way from `start` to every other node; over the control network or without it."""
    edges: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for node1, node2, info in topo.links(withInfo=True):
        addresses = [info.get(params, {}).get("ip", "") for params in ("params1", "params2")]
        if any(address.startswith(CONTROL) for address in addresses) == control:
            edges[node1].append((node2, info))
            edges[node2].append((node1, info))
    found: dict[str, list[dict[str, Any]]] = {start: []}
    queue = [start]
    for node in queue:
        for other, info in edges[node]:
            if other not in found:
                found[other] = [*found[node], info]
                queue.append(other)
    return found


def round_trip(way: list[dict[str, Any]]) -> float:
    """Milliseconds."""
    return sum(2 * units.milliseconds(info.get("delay", 0)) for info in way)


def test_round_trip_time_loss_and_bandwidth_are_as_asked_for_on_the_way_to_each_server() -> None:
    for topology in TOPOLOGIES:
        topo = topology(rtt="40ms", loss="0.1%", jitter="2ms", bw="10mbit", queue=50)
        for client, server in itertools.product(topo.clients, topo.pool):
            way = ways(topo, client)[server.name]
            assert round_trip(way) == pytest.approx(40), (topology, client, server)
            assert [info["loss"] for info in way if "loss" in info] == [0.1], (topology, client, server)
            assert [info["jitter"] for info in way if "jitter" in info] == ["2ms"], (topology, client, server)
            assert {info["bw"] for info in way if "bw" in info} == {10.0}, (topology, client, server)


@pytest.mark.parametrize("topology", [TwoServers, PoolTopo, Dumbbell, Dos])
def test_without_options_nothing_is_emulated(topology: type[ServiceTopo]) -> None:
    for _, _, info in topology().links(withInfo=True):
        assert not {"bw", "delay", "jitter", "loss", "queue"} & info.keys()


@pytest.mark.parametrize(
    ("options", "there", "apart"),
    [
        ({"rtt": 100, "server_rtt": "1ms"}, [100, 100], 1),
        ({"rtt": "10ms", "server_rtt": "20ms"}, [10, 10], 20),
        ({}, [80, 80], 2),
        ({"reverse": True}, [2, 80], 80),
        ({"reverse": True, "rtt": 10, "server_rtt": 30}, [10, 30], 30),
    ],
)
def test_distances_in_the_wan(options: dict[str, Any], there: list[float], apart: float) -> None:
    topo = Wan(**options)
    assert [round_trip(ways(topo, "client")[server]) for server in ("s1", "s2")] == pytest.approx(there)
    assert round_trip(ways(topo, "s1")["s2"]) == pytest.approx(apart)
    assert round_trip(ways(topo, "s1", control=True)["s2"]) == pytest.approx(apart)


@pytest.mark.parametrize("options", [{"rtt": 10, "server_rtt": 21}, {"rtt": 21, "server_rtt": 10, "reverse": True}])
def test_distances_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(LinkError, match="longer than twice"):
        Wan(**options)


def test_conditions_that_no_link_can_have_and_options_that_nothing_has() -> None:
    with pytest.raises(LinkError, match="jitter of 3 ms is more than the delay, 1 ms"):
        TwoServers(rtt=4, jitter=3)
    with pytest.raises(ValueError, match="fast is not a bandwidth"):
        Dumbbell(bw="fast")
    with pytest.raises(TypeError, match="rtd"):
        PoolTopo(rtd=4)


def test_the_second_path_is_the_one_of_the_other_server() -> None:
    """And those that there are anyway are the same as without it."""
    options = {"rtt": "40ms", "loss": "0.1%", "bw": "10mbit"}
    topo, without = Dumbbell(second_path=True, **options), Dumbbell(**options)
    for name in ("s1", "s2"):
        assert round_trip(ways(topo, "client")[name]) == pytest.approx(40)
    for each in (topo, without):
        paths = [info for _, _, info in each.links(withInfo=True) if "bw" in info]
        assert [round_trip([info]) for info in paths] == pytest.approx([40, 40])
    assert topo.second_addresses == {"s1": "10.0.2.11"} and without.second_addresses == {}
