"""What becomes of links when the emulator, or the program that made them, ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mininet.topo import Topo

from testbed.links import LinkError
from testbed.network import Network
from testbed.processes import checked

pytestmark = pytest.mark.sandbox(shared=True)


def lines() -> list[int]:
    """Processes that are delay lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"testbed.emulation.delay_line" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def eventually(condition: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_killed_emulator_is_noticed_and_carries_nothing() -> None:
    topo = Topo()
    for name in ("k1", "k2"):
        topo.addHost(name, ip=None)
    topo.addLink("k1", "k2", delay=1, params1={"ip": "10.1.0.1/24"}, params2={"ip": "10.1.0.2/24"})
    others = lines()
    dying = Network(topo, emulation="delay-line")
    try:
        dying.start()
        checked(dying["k1"], "ping", "-c1", "-W5", "10.1.0.2")
        (pid,) = set(lines()) - set(others)
        assert dying.emulation_died is None
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: dying.emulation_died is not None, 1.0)
        assert "has died: SIGKILL" in str(dying.emulation_died)
        _, _, code = dying["k1"].pexec("ping", "-c2", "-i0.01", "-W1", "10.1.0.2")
        assert code == 1
        with pytest.raises(LinkError, match="has died"):
            dying.links[0].set(delay=2)
        with pytest.raises(LinkError, match="has died"):
            dying.emulation_stats()
    finally:
        dying.stop()
    assert "has died" in str(dying.emulation_died)
    assert lines() == others


SCRIPT = """
import sys, time
from functools import partial
from mininet.net import Mininet
from testbed.links import EmulatedLink
Mininet.inited = True
net = Mininet(link=partial(EmulatedLink, emulation="delay-line"), controller=None)
a, b = net.addHost("a1"), net.addHost("b1")
link = net.addLink(a, b, delay="3ms", bw="50mbit")
net.start()
print(link.intf1, link.intf2, float(a.cmd("ping -c3 -i0.1 -q 10.0.0.2").split("=")[1].split("/")[0]) >= 6, flush=True)
if sys.argv[1] == "hang":
    time.sleep(1000)
net.stop()
"""


def namespaces() -> set[str]:
    """Network namespaces that processes are in."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(str(path.readlink()))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("end", ["exit", "SIGKILL"])
def test_in_any_script_and_gone_with_it(end: str) -> None:
    before, spaces = lines(), namespaces()
    argument = "leave" if end == "exit" else "hang"
    script = subprocess.Popen([sys.executable, "-c", SCRIPT, argument], stdout=subprocess.PIPE, text=True)
    assert script.stdout is not None
    assert script.stdout.readline() == "a1-eth0 b1-eth0 True\n"
    if end != "exit":
        assert len(lines()) == len(before) + 1
        script.kill()
    assert script.wait(20) == (0 if end == "exit" else -signal.SIGKILL)
    assert eventually(lambda: lines() == before, 10)
    assert eventually(lambda: namespaces() == spaces, 10)
