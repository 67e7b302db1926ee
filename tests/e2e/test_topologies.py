"""Each topology as a user meets it: at Mininet's prompt, in a terminal, left in every way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import scripts
from tests.e2e.terminal import PROMPT, Terminal
from tests.traces import Traces, child, eventually

SLOW = ("--bw", "20mbit", "--rtt", "8ms", "--big", "60000000")
"""A download that lasts until the links are made faster."""


def _exit(terminal: Terminal, _traces: Traces) -> int:
    terminal.type("exit\n")
    return 0


def _ctrl_d(terminal: Terminal, _traces: Traces) -> int:
    terminal.type("\x04")
    return 0


def _hang_up(terminal: Terminal, traces: Traces) -> int:
    os.kill(traces.outer, signal.SIGHUP)
    return 128 + signal.SIGHUP


def _kill_outer(_terminal: Terminal, traces: Traces) -> int:
    os.kill(traces.outer, signal.SIGKILL)
    return -signal.SIGKILL


def _kill_inner(_terminal: Terminal, traces: Traces) -> int:
    os.kill(traces.inner, signal.SIGKILL)
    return 128 + signal.SIGKILL


@pytest.mark.parametrize(
    ("topology", "options", "links", "way", "leave"),
    [
        ("two_servers", [], ["client sw1", "s1 sw1"], ["s2", "s1"], _exit),
        ("pool", ["--clients", "2"], ["client sw1", "s3 sw1"], ["s2", "s1", "s3"], _ctrl_d),
        ("wan", ["--server-rtt", "2ms"], ["client r", "s2 r"], ["s2"], _kill_outer),
        ("dumbbell", [], ["sw1 sw2", "s2 r"], ["s2"], _kill_inner),
        ("dos", ["--attackers", "2", "--attack-bw", "200mbit"], ["client sw1", "s2 sw1"], ["s2"], _hang_up),
    ],
)
def test_a_download_moves_while_links_change(
    topology: str, options: list[str], links: list[str], way: list[str], leave: Callable[[Terminal, Traces], int]
) -> None:
    with Terminal(topology, *SLOW, *options) as terminal:
        greeting = terminal.wait_for(PROMPT)
        assert re.search(r"by (netem|delay-line):\n +\S+.*: 20 Mbit/s \(queue 250\), ", greeting), greeting
        traces = Traces(terminal.process.pid)
        assert "no migratable connections" in terminal.run("client mtcp ls")
        names = dict(line.split() for line in terminal.run("client cat /etc/hosts").splitlines())
        terminal.run("client curl -sS http://s1/big | sha256sum > /run/mtcp/sum &")
        terminal.run("client until mtcp ls | grep -q TRACKED; do sleep 0.05; done")
        assert terminal.run(f"set {links[0]} delay=15ms").strip() == ""
        moves = terminal.run(f"client for s in {' '.join(way)}; do mtcp migrate --to $s; done")
        addresses = re.findall(r" moved from \S+ to (\S+):80 in", moves)
        assert [names[address] for address in addresses] == way, moves
        shown = terminal.run("links")
        node1, node2 = links[0].split()
        assert re.search(rf"{node1}-eth\d+<->{node2}-eth\d+ \(OK OK\): 20 Mbit/s \(queue 250\), 15 ms", shown), shown
        for link in links:
            terminal.run(f"set {link} bw=1gbit")
        received, sent = re.findall(
            "[0-9a-f]{64}", terminal.run("client wait; cat /run/mtcp/sum; sha256sum < /run/mtcp/files/big")
        )
        assert received == sent
        times = terminal.run("client ping -c3 -i0.1 -q s1")
        assert float(re.search(r"= ([\d.]+)/", times)[1]) >= 30.0, times  # type: ignore[index]
        traces.look()
        code = leave(terminal, traces)
        assert terminal.end() == code, terminal.text
        assert eventually(traces.gone), traces.left()


def test_whatever_is_killed_nothing_is_left() -> None:
    """Each kind of process of a run, one after the other; the prompt survives, and the run then ends as ever."""
    victims = ("mtcp agent --name s1", "testbed.services.files", "bash --norc.*mininet:client", "delay_line", "tcpdump")
    with Terminal("two_servers", "--rtt", "2ms", "--big", "1000") as terminal:
        terminal.wait_for(PROMPT)
        traces = Traces(terminal.process.pid)
        terminal.run("s2 tcpdump -i s2-eth0 -w /run/mtcp/s2.pcap > /dev/null 2>&1 &")
        assert eventually(lambda: "tcpdump" in str(_commands(traces)))
        for victim in victims:
            found = [pid for pid, command in _commands(traces).items() if re.search(victim, command)]
            assert found or victim == "delay_line", f"no {victim} in {_commands(traces)}"  # where there is netem
            traces.look()
            for pid in found:
                os.kill(pid, signal.SIGKILL)
        os.kill(traces.janitor, signal.SIGKILL)
        assert "its shell has been killed" in terminal.run("client echo hello")
        assert "still here" in terminal.run("s1 echo still here")
        terminal.type("exit\n")
        assert terminal.end() == 0, terminal.text
        assert not traces.left()


def _commands(traces: Traces) -> dict[int, str]:
    return {pid: Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in traces.processes()}


def test_ctrl_c_ends_the_command_and_not_the_network() -> None:
    with Terminal("dos", "--no-agents", "--big", "1000") as terminal:
        greeting = terminal.wait_for(PROMPT)
        assert "by tbf" in greeting and "migrate" not in greeting
        terminal.interrupt(f"Interrupt\\s+{PROMPT}")
        terminal.type("client ping s1\n")
        terminal.wait_for("icmp_seq=2")
        terminal.interrupt("packets transmitted")
        terminal.wait_for(PROMPT)
        terminal.run("client sleep 1000 &")
        terminal.type("client jobs\n")
        terminal.wait_for("Running +sleep 1000")
        terminal.wait_for(PROMPT)
        measured = terminal.run("selftest")
        assert re.search(r"client-eth\d+->sw1-eth\d+: \d+ of \d+ lost, [\d.]+ ms .*, [\d.]+ Mbit/s", measured), measured
        for words in ("client", "client r delay", "client r what=1", "client nobody delay=1ms", "client sw1 delay=1ms"):
            assert terminal.run(f"set {words}").startswith("*** "), words
        traces = Traces(terminal.process.pid)
        terminal.type("\x04")
        assert terminal.end() == 0
        assert not traces.left()


def test_ctrl_c_before_the_prompt() -> None:
    with Terminal("pool", "--servers", "6") as terminal:
        pid = terminal.process.pid
        assert eventually(lambda: _interfaces(pid) > 8)
        traces = Traces(pid)
        terminal.type("\x03")
        assert terminal.end() == 130, terminal.text
        assert "Traceback" not in terminal.text
        assert not traces.left()


def _interfaces(outer: int) -> int:
    """How many there are outside of hosts in the sandbox."""
    try:
        return len(Path(f"/proc/{child(outer, exclude='mtcp-janitor')}/net/dev").read_text().splitlines()) - 2
    except (OSError, ValueError):  # not there yet
        return 0


def test_commands_from_a_pipe_run_one_after_another() -> None:
    commands = "client ping -c1 s1\ns1 sleep 0.2; echo second\nclient hostname; echo third\n"
    output = scripts.piped("two_servers", commands, "--no-agents", "--big", "1000")
    assert " 0% packet loss" in output
    assert output.index("packet loss") < output.index("second") < output.index("third")


def test_a_session_with_a_database_moves() -> None:
    said = "/run/mtcp/said"
    typed = f"(echo \"set application_name to 'walker';\"; until test -e {said}.moved; do sleep 0.05; done;"
    typed += " echo 'show application_name;')"
    commands = (
        f"client {typed} | psql -h s1 -U postgres -At > {said} &",
        f"client until grep -q SET {said}; do sleep 0.05; done",
        "client mtcp migrate --to s2",
        f"client touch {said}.moved; wait; cat {said}",
    )
    output = scripts.piped("database", "\n".join(commands) + "\n", "--big", "1000")
    assert re.search(r" moved from \S+:5432 to 10\.0\.0\.2:5432 in .*\nSET\r?\nwalker\r?\n", output), output


def test_four_at_once_with_identical_names() -> None:
    def least(rtt: int) -> float:
        commands = "client ping -c5 -i0.1 -q s1\n"
        output = scripts.piped("two_servers", commands, "--no-agents", "--big", "1000", "--rtt", f"{rtt}ms")
        return float(re.search(r"= ([\d.]+)/", output)[1])  # type: ignore[index]

    asked = [20, 60, 100, 140]
    with ThreadPoolExecutor(len(asked)) as threads:
        measured = list(threads.map(least, asked))
    assert all(rtt <= least < rtt + 35 for rtt, least in zip(asked, measured, strict=True)), measured


@pytest.mark.parametrize(
    ("topology", "option", "message"),
    [
        ("two_servers", ["--bw=-1"], "-1 is not a bandwidth"),
        ("two_servers", ["--loss", "200%"], "200% is not a share"),
        ("two_servers", ["--jitter", "3ms", "--rtt", "4ms"], "a jitter of 3 ms is more than the delay, 1 ms"),
        ("pool", ["--servers=0"], "0 is not between 1 and 99"),
        ("wan", ["--rtt", "10ms", "--server-rtt", "50ms"], "longer than twice"),
        ("dumbbell", ["--emulation", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_bad_options_are_one_line(topology: str, option: list[str], message: str) -> None:
    run = subprocess.run([*scripts.command(topology), *option], capture_output=True, text=True, cwd=scripts.ROOT)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert message in line
