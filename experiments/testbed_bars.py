"""What the testbed promises, measured: each bar is a function that yields observations, in a sandbox of its own.

Theory is in the docstrings; what is made of the observations, and the limits, are in analysis/testbed.py.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mininet.topo import Topo

from testbed import sandbox
from testbed.cross_traffic import CrossTraffic
from testbed.fidelity import FidelityError, Monitor
from testbed.generators import Generator
from testbed.link_probe import LARGEST, Port, ports
from testbed.network import Network
from testbed.ping import ping
from testbed.results import Run


class Observation(NamedTuple):
    """A row of samples.parquet, without how busy the machine was meanwhile."""

    bar: str
    case: str
    quantity: str
    value: float
    repetition: int = 0


Bar = Callable[[int], Iterator[Observation]]
"""Called with a number: of the repetition, where the bar asks for several sandboxes."""


class Star(Topo):  # type: ignore[misc]
    """Hosts around a switch; each with the parameters of its link."""

    def build(self, hosts: Mapping[str, Mapping[str, Any]] | None = None, **_params: Any) -> None:
        """Called by Mininet's Topo."""
        switch = self.addSwitch("sw1")
        for name, link in (hosts or {}).items():
            self.addLink(self.addHost(name), switch, **link)


@contextlib.contextmanager
def network(hosts: Mapping[str, Mapping[str, Any]], emulation: str | None = None) -> Iterator[Network]:
    """A star, up and running; `hosts` with the parameters of their links."""
    net = Network(Star(hosts=hosts), emulation=emulation)
    try:
        net.start()
        yield net
        _emulations.add(net.emulation)
    finally:
        net.stop()


_emulations: set[str] = set()
"""Of the networks so far."""


def rtt_idle(_: int) -> Iterator[Observation]:
    """A link with a delay of D each way has a round-trip time of 2 D and what the hosts take, some 0.05 ms."""
    with network({"a": {"delay": 0}, "b": {}}) as net:
        yield from _rtts(net, "idle")


def rtt_loaded(_: int) -> Iterator[Observation]:
    """The same, while the same delay line carries 80 Mbit/s of TCP over another link."""
    with (
        network({"a": {"delay": 0}, "b": {}, "c": {"bw": 100, "delay": "5ms"}, "d": {}}) as net,
        CrossTraffic(net["c"], net["d"], 80.0, logs=sandbox.RUN, seconds=120),
    ):
        yield from _rtts(net, "80 Mbit/s elsewhere")


def _rtts(net: Network, load: str) -> Iterator[Observation]:
    (link,) = (each for each in net.links if each.intf1.node.name == "a")
    for repetition in range(3):
        for rtt in (2, 10, 40, 200):
            link.set(delay=rtt / 2)
            time.sleep(0.3 + rtt / 500)  # until what was sent before has arrived
            for each in ping(net["a"], net["b"].IP(), 300, 0.005):
                yield Observation("rtt", f"{rtt} ms, {load}", "rtt_error_ms", each - rtt, repetition)


def rate(_: int) -> Iterator[Observation]:
    """Of full-sized frames of 1514 bytes TCP's payload is 1448 (with time stamps): 95.6 % of the bandwidth."""
    for mbit, queue in ((10, 100), (100, 250), (1000, 2000)):
        with network({f"a{mbit}": {"bw": mbit, "delay": "10ms", "queue": queue}, f"b{mbit}": {}}) as net:
            for repetition in range(5):
                received = goodput(net[f"a{mbit}"], net[f"b{mbit}"], 3.0)
                yield Observation("rate", f"{mbit} Mbit/s", "goodput_mbit", received, repetition)


def goodput(client: Any, server: Any, seconds: float) -> float:
    """Mbit/s of payload that arrive by TCP, without the first second, that of its slow start."""
    with CrossTraffic(client, server, None, logs=sandbox.RUN, seconds=seconds + 1) as traffic:
        traffic.result()
        each_second = [each["sum"] for each in json.loads(traffic.server.output())["intervals"]][1:]
    whole = [each for each in each_second if each["seconds"] > 0.9]
    return float(8e-6 * sum(each["bytes"] for each in whole) / sum(each["seconds"] for each in whole))


def loss(_: int) -> Iterator[Observation]:
    """Each frame is lost by itself with probability p: of n, the binomial distribution says how many.

    With the network's seed of 0: with the delay line, the same frames are lost in every run.
    """
    with network({"a": {"loss": 0.1}}) as net:
        (link,) = net.links
        with contextlib.ExitStack() as stack:
            first, second = (stack.enter_context(port) for port in ports(link))
            for percent, frames in ((0.1, 40_000), (1.0, 20_000), (5.0, 10_000)):
                link.set(loss=percent)
                for source, to in ((first, second), (second, first)):
                    case = f"{percent:g} %"
                    yield Observation("loss", case, "sent", frames)
                    yield Observation("loss", case, "lost", frames - _stream(source, to, frames, 10_000))


def _stream(source: Port, to: Port, frames: int, rate: float) -> int:
    """Send so many small frames at so many a second; how many arrive."""
    arrived, begun = 0, time.monotonic()
    for number in range(frames):
        source.send(to, number)
        if number % 20 == 0:
            arrived += len(to.arrivals())
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
    time.sleep(0.3)
    return arrived + len(to.arrivals())


def buffer(_: int) -> Iterator[Observation]:
    """A full buffer of N frames of L bytes at rate R delays what comes last by N L / R.

    100 frames at 100 Mbit/s: 12.1 ms. UDP at 1.3 times the rate keeps it full; TCP would, on average, not.
    """
    for mbit in (20, 100):
        theory = 100 * LARGEST * 8 / (mbit * 1e3)
        link = {"bw": mbit, "queue": 100, "delay": "5ms"}
        with network({f"a{mbit}": link, f"b{mbit}": {}}) as net:
            a, b = net[f"a{mbit}"], net[f"b{mbit}"]
            for repetition in range(3):
                idle = _median(ping(a, b.IP(), 60, 0.01))
                with CrossTraffic(a, b, 1.3 * mbit, logs=sandbox.RUN, udp=True, seconds=30):
                    time.sleep(0.5)  # until it is full
                    loaded = _median(ping(a, b.IP(), 200, 0.01))
                yield Observation("buffer", f"{mbit} Mbit/s", "rise_ms", loaded - idle, repetition)
                yield Observation("buffer", f"{mbit} Mbit/s", "theory_ms", theory, repetition)
                time.sleep(0.3)


def _median(values: list[float]) -> float:
    known = sorted(each for each in values if each == each)
    return known[len(known) // 2]


def live(_: int) -> Iterator[Observation]:
    """Delay and bandwidth change while numbered frames flow both ways: none may be missing, none be overtaken."""
    settings: tuple[dict[str, Any], ...] = ({"delay": 80}, {"delay": 5}, {"bw": 10}, {"bw": 100}, {"jitter": 5})
    with network({"a": {"delay": 5, "bw": 100, "queue": 1000}}) as net:
        (link,) = net.links
        with contextlib.ExitStack() as stack:
            first, second = (stack.enter_context(port) for port in ports(link))
            changes = itertools.cycle((*settings, {"jitter": 0}))
            arrived: dict[Port, list[int]] = {first: [], second: []}
            begun, frames, done = time.monotonic(), 8000, threading.Event()

            def change() -> None:
                while not done.wait(0.25):
                    link.set(**next(changes))
                    counted.append(1)

            counted: list[int] = []
            changing = threading.Thread(target=change)
            changing.start()
            for number in range(frames):
                first.send(second, number)
                second.send(first, number)
                time.sleep(max(0.0, begun + number / 1000 - time.monotonic()))
                for port, numbers in arrived.items():
                    numbers += [each.number for each in port.arrivals()]
            done.set()
            changing.join()
            time.sleep(1.0)
            for port, numbers in arrived.items():
                numbers += [each.number for each in port.arrivals()]
    late = sum(after < before for numbers in arrived.values() for before, after in itertools.pairwise(numbers))
    yield Observation("live", "delay, bandwidth and jitter", "sent", 2 * frames)
    yield Observation("live", "delay, bandwidth and jitter", "changes", len(counted))
    yield Observation("live", "delay, bandwidth and jitter", "lost", 2 * frames - sum(map(len, arrived.values())))
    yield Observation("live", "delay, bandwidth and jitter", "reordered", late)


def death(repetition: int) -> Iterator[Observation]:
    """From SIGKILL for the delay line until run.json says `invalid` and why, and the experiment is ended."""
    with network({"a": {"delay": 5}, "b": {}}, "delay-line") as net:
        noticed = 0.0
        with (
            contextlib.suppress(FidelityError),
            Run("death", scenario="death", mechanism="none", results=sandbox.RUN) as run,
            Monitor(run, net),
        ):
            time.sleep(0.3)
            process = net._emulator.process.process
            begun = time.monotonic()
            os.kill(process.pid, signal.SIGKILL)
            try:
                time.sleep(30)
            except KeyboardInterrupt:
                said = json.loads(run.path("run.json").read_text())
                assert said["verdict"] == "invalid" and "has died" in said["reason"], said
                noticed = time.monotonic() - begun
                raise
    yield Observation("death", "the delay line", "seconds", noticed or 30.0, repetition)


def up_and_down(repetition: int) -> Iterator[Observation]:
    """A client and two servers, all links with bandwidth and delay: from nothing to working links, and to nothing."""
    link = {"bw": 100, "delay": "5ms"}
    begun = time.monotonic()
    with network(dict.fromkeys(("client", "s1", "s2"), link)):
        up = time.monotonic()
    down = time.monotonic()
    yield Observation("up_and_down", "three hosts", "up_seconds", up - begun, repetition)
    yield Observation("up_and_down", "three hosts", "seconds", down - begun, repetition)


def identical(number: int) -> Iterator[Observation]:
    """Several at once, with the same names and addresses, but other delays: each sees its own, and nothing else."""
    rtt = 10 * (number + 1)
    with network({"client": {"bw": 20, "delay": rtt / 2}, "s1": {}}) as net:
        case = "4 at once"
        for each in ping(net["client"], net["s1"].IP(), 200, 0.01):
            yield Observation("identical", case, "rtt_error_ms", each - rtt, number)
        yield Observation("identical", case, "goodput_mbit", goodput(net["client"], net["s1"], 3.0), number)


def syn_flood(_: int) -> Iterator[Observation]:
    """A generator of one process uses one core; what it has sent in its processor time is its rate per core."""
    with network({"a": {}, "b": {}}) as net:
        for repetition in range(3):
            words = ("syn", f"{net['b'].IP()}:80", "--rate", 200_000, "--seconds", 3)
            flood = Generator(net["a"], "testbed.attack", *words, log=sandbox.RUN / f"flood{repetition}.log")
            flood.process.wait(30)
            said = json.loads(flood.output().strip().splitlines()[-1])
            yield Observation(
                "syn_flood", "one process", "packets_per_second", said["sent"] / said["seconds"], repetition
            )


BARS: Mapping[str, tuple[Bar, int, bool]] = {
    "rtt_idle": (rtt_idle, 1, False),
    "rtt_loaded": (rtt_loaded, 1, False),
    "rate": (rate, 1, False),
    "loss": (loss, 1, False),
    "buffer": (buffer, 1, False),
    "live": (live, 1, False),
    "death": (death, 5, False),
    "up_and_down": (up_and_down, 7, False),
    "identical": (identical, 4, True),
    "syn_flood": (syn_flood, 1, False),
}
"""Name: the bar, how many sandboxes it is measured in, and whether those are there at the same time."""


def main() -> int:
    """python -m experiments.testbed_bars NAME NUMBER: a bar in a sandbox; its observations, as lines of JSON,
    and what emulated the links."""
    name, number = sys.argv[1], int(sys.argv[2])
    sandbox.enter()
    for observation in BARS[name][0](number):
        print(json.dumps(observation), flush=True)
    print(json.dumps({"emulation": "+".join(sorted(_emulations - {"none"}))}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
