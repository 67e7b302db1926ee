"""The topology of two servers, as a user meets it: at Mininet's prompt."""

from __future__ import annotations

import fcntl
import functools
import os
import pty
import re
import select
import subprocess
import termios
import time

import pytest

from tests.e2e import scripts
from tests.e2e.scripts import ROOT

SCRIPT = scripts.command("two_servers")
PROMPT = "mininet> "
piped = functools.partial(scripts.piped, "two_servers")


class Terminal:
    """The script at a terminal of its own."""

    def __init__(self, *options: str) -> None:
        self.fd, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*SCRIPT, *options],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        self.text = ""

    def wait_for(self, pattern: str, timeout: float = 30.0) -> str:
        """What is printed up to and with the regular expression `pattern`."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.text!r}"
            self.text += os.read(self.fd, 4096).decode()
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def interrupt(self, pattern: str) -> None:
        """Press Ctrl-C until `pattern` is printed.

        Python waits by select() at a prompt: a signal just before that takes effect at the next key only.
        """
        for _ in range(20):
            self.type("\x03")
            try:
                self.wait_for(pattern, timeout=1.5)
                return
            except AssertionError:
                continue
        self.wait_for(pattern)

    def leave(self) -> int:
        """Press Ctrl-D; the exit code."""
        self.type("\x04")
        try:
            while os.read(self.fd, 4096):
                pass
        except OSError:  # the other end is closed
            os.close(self.fd)
        return self.process.wait(20)


def test_commands_from_a_pipe_run_one_after_another() -> None:
    output = piped("client ping -c1 s1\ns1 sleep 0.2; echo second\nclient hostname; echo third\n", "--no-agents")
    assert " 0% packet loss" in output
    assert output.index("packet loss") < output.index("second") < output.index("third")


def test_a_download_moves_there_and_back_while_it_runs() -> None:
    commands = (
        "client curl -sS http://s1/big | sha256sum > /run/mtcp/sum &",
        "client until mtcp ls | grep -q 10.0.0.2; do sleep 0.05; done; mtcp ls",
        "client mtcp migrate --to s2",
        "client mtcp ls",
        "client mtcp migrate --to s1",
        "client wait; cat /run/mtcp/sum; sha256sum < /run/mtcp/files/big",
    )
    output = piped("\n".join(commands) + "\n", "--bw", "500")
    assert re.search(r"moved from 10\.0\.0\.1:80 to 10\.0\.0\.2:80", output), output
    assert re.search(r"moved from 10\.0\.0\.2:80 to 10\.0\.0\.1:80", output), output
    received, sent = re.findall(r"^[0-9a-f]{64}", output, re.MULTILINE)
    assert received == sent


def test_migrating_what_is_not_there_is_one_line() -> None:
    output = piped("client mtcp ls\nclient mtcp migrate --to s2; echo code $?\n")
    assert "no migratable connections" in output
    assert re.search(r"^mtcp: .*\ncode 1$", output, re.MULTILINE), output


def test_ctrl_c_ends_the_command_and_not_the_network() -> None:
    terminal = Terminal("--no-agents")
    assert "client mtcp migrate --to s2" in terminal.wait_for(PROMPT)
    terminal.interrupt(f"Interrupt\\s+{PROMPT}")
    terminal.type("client ping s1\n")
    terminal.wait_for("icmp_seq=2")
    terminal.interrupt("packets transmitted")
    terminal.wait_for(PROMPT)
    terminal.type("client sleep 1000 &\n")
    terminal.wait_for(PROMPT)
    terminal.type("client jobs\n")
    terminal.wait_for("Running +sleep 1000")
    terminal.wait_for(PROMPT)
    assert terminal.leave() == 0


@pytest.mark.parametrize(("option", "message"), [("--bw=-1", "bandwidth"), ("--bw=x", "invalid float value")])
def test_bad_options_are_one_line(option: str, message: str) -> None:
    run = subprocess.run([*SCRIPT, "--no-agents", option], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode != 0
    assert message in run.stderr.strip().splitlines()[-1]
    assert "Traceback" not in run.stderr
