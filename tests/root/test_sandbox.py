"""A sandbox leaves nothing behind, however it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed import cgroups

SCRIPT = """
import os, subprocess, sys, time
from pathlib import Path
from testbed import sandbox
sandbox.enter()
assert os.getpid() == 1 and sandbox.inside()
subprocess.run(["ip", "link", "add", "left0", "type", "veth", "peer", "name", "left1"], check=True)
Path(sandbox.CGROUP, "host").mkdir()
child = subprocess.Popen(["setsid", "sleep", "1000"])
Path(sandbox.CGROUP, "host", "cgroup.procs").write_text(str(child.pid))
try:
    print("up", Path("/proc/net/dev").read_text().count("left"), flush=True)
    exec(sys.argv[1])
except KeyboardInterrupt:
    time.sleep(0.3)  # a second SIGINT would end this
    print("interrupted", flush=True)
    sys.exit(77)
finally:
    print("unwound", flush=True)
"""


def groups() -> set[Path]:
    return set(cgroups.mount_point().glob(f"{cgroups.PREFIX}*"))


def eventually(condition: Callable[[], bool], timeout: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class Sandbox:
    """The script above in a sandbox, and what the machine sees of it."""

    def __init__(self, script: Path, body: str, **options: object) -> None:
        before = groups()
        self.outer = subprocess.Popen([sys.executable, str(script), body], stdout=subprocess.PIPE, text=True, **options)
        assert self.outer.stdout is not None
        self.output = self.outer.stdout
        assert self.output.readline() == "up 2\n"
        # Others may run sandboxes at the same time: ours is the one that holds a child of ours.
        self.inner = self.children(self.outer.pid, exclude="mtcp-janitor")
        self.janitor = self.children(self.outer.pid, only="mtcp-janitor")
        (self.group,) = (g for g in groups() - before if self.inner in self.processes(g))
        self.namespaces = {Path(f"/proc/{self.inner}/ns/{kind}").readlink() for kind in ("net", "mnt", "pid")}
        self.alive = {pid: born(pid) for pid in {*self.processes(self.group), self.janitor}}
        assert len(self.alive) == 3 and None not in self.alive.values()

    @staticmethod
    def children(parent: int, only: str | None = None, exclude: str | None = None) -> int:
        pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        names = {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}
        (found,) = (p for p, n in names.items() if (only is None or n == only) and n != exclude)
        return found

    @staticmethod
    def processes(group: Path) -> list[int]:
        return [int(pid) for file in group.rglob("cgroup.procs") for pid in file.read_text().split()] + [
            int(pid) for pid in (group / "cgroup.procs").read_text().split()
        ]

    def gone(self) -> bool:
        """No control group, and no process, hence no namespace (whose numbers are used again at once)."""
        return not self.group.exists() and all(born(pid) != then for pid, then in self.alive.items())


def born(pid: int) -> str | None:
    """When the process `pid` started: with the pid, its identity. None if it is dead."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else fields[18]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("sys.exit(3)", 3), ("raise SystemExit('x')", 1)])
def test_exit_code_and_nothing_left(script: Path, body: str, code: int) -> None:
    sandbox = Sandbox(script, f"sys.stdin.readline(); {body}", stdin=subprocess.PIPE)
    sandbox.outer.communicate("\n", timeout=20)
    assert sandbox.outer.returncode == code
    assert sandbox.gone(), "all is gone already when the outer process ends"


@pytest.mark.parametrize("victim", ["outer", "inner", "janitor and outer"])
def test_kill_leaves_nothing(script: Path, victim: str) -> None:
    sandbox = Sandbox(script, "time.sleep(1000)")
    if victim == "janitor and outer":
        os.kill(sandbox.janitor, signal.SIGKILL)
    os.kill(sandbox.inner if victim == "inner" else sandbox.outer.pid, signal.SIGKILL)
    assert sandbox.outer.wait(20) == (128 + 9 if victim == "inner" else -9)
    if victim == "janitor and outer":
        # Nobody is left to remove the group; the next sandbox does, once it is sure of it.
        assert eventually(lambda: not sandbox.processes(sandbox.group))
        assert sandbox.group.exists()
        os.utime(sandbox.group, (0, 0))
        cgroups.remove_stale(sandbox.group.parent)
    assert eventually(sandbox.gone)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 143, "unwound\n"),
        (signal.SIGHUP, 129, "unwound\n"),
        (signal.SIGINT, 77, "interrupted\nunwound\n"),
    ],
)
def test_signal_unwinds_the_script(script: Path, number: signal.Signals, code: int, said: str) -> None:
    sandbox = Sandbox(script, "time.sleep(1000)")
    sandbox.outer.send_signal(number)
    output, _ = sandbox.outer.communicate(timeout=20)
    assert (sandbox.outer.returncode, output) == (code, said)
    assert sandbox.gone()


def test_a_script_that_does_not_end_is_killed(script: Path) -> None:
    script.write_text(SCRIPT.replace("sandbox.enter()", "sandbox._GRACE = 0.5; sandbox.enter()"))
    sandbox = Sandbox(
        script,
        "import signal; signal.signal(15, lambda *_: None); print('deaf', flush=True)\nwhile True: time.sleep(1000)",
    )
    assert sandbox.output.readline() == "deaf\n"
    sandbox.outer.terminate()
    output, _ = sandbox.outer.communicate(timeout=20)
    assert (sandbox.outer.returncode, output) == (128 + 9, "")
    assert sandbox.gone()


def test_signal_to_process_and_group_counts_once(script: Path) -> None:
    # What `timeout` does: it signals its child, then the process group.
    sandbox = Sandbox(script, "time.sleep(1000)", start_new_session=True)
    for _ in range(3):
        os.kill(sandbox.outer.pid, signal.SIGTERM)
        os.killpg(sandbox.outer.pid, signal.SIGTERM)
    output, _ = sandbox.outer.communicate(timeout=20)
    assert (sandbox.outer.returncode, output) == (143, "unwound\n")
    assert sandbox.gone()


def test_ctrl_c_at_a_terminal_reaches_the_script_once(script: Path) -> None:
    controller, terminal = pty.openpty()
    sandbox = Sandbox(
        script,
        "time.sleep(1000)",
        stdin=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.write(controller, b"\x03")
    output, _ = sandbox.outer.communicate(timeout=20)
    assert (sandbox.outer.returncode, output) == (77, "interrupted\nunwound\n")
    assert sandbox.gone()
    os.close(controller)
    os.close(terminal)


def test_two_sandboxes_do_not_see_each_other(script: Path) -> None:
    first, second = Sandbox(script, "time.sleep(1000)"), Sandbox(script, "time.sleep(1000)")
    assert not first.namespaces & second.namespaces
    for sandbox in (first, second):
        sandbox.outer.terminate()
        sandbox.outer.communicate(timeout=20)
        assert sandbox.gone()


def test_not_root_is_one_line(script: Path, tmp_path: Path) -> None:
    script.write_text("from testbed import sandbox\nsandbox.os.geteuid = lambda: 1000\nsandbox.enter()\n")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip().endswith("run it with sudo.")
    assert len(run.stderr.strip().splitlines()) == 1
