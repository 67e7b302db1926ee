"""A sandbox leaves nothing behind, however it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from testbed import cgroups
from tests.traces import Traces, eventually

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


class Sandbox(Traces):
    """The script above in a sandbox, and what the machine sees of it."""

    def __init__(self, script: Path, body: str, *arguments: str, **options: object) -> None:
        command = [sys.executable, str(script), body, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
        assert self.process.stdout is not None
        self.output = self.process.stdout
        assert self.output.readline() == "up 2\n"
        super().__init__(self.process.pid)
        assert len(self._alive) == 3 and None not in self._alive.values()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize(("body", "code"), [("pass", 0), ("sys.exit(3)", 3), ("raise SystemExit('x')", 1)])
def test_exit_code_and_nothing_left(script: Path, body: str, code: int) -> None:
    sandbox = Sandbox(script, f"sys.stdin.readline(); {body}", stdin=subprocess.PIPE)
    sandbox.process.communicate("\n", timeout=20)
    assert sandbox.process.returncode == code
    assert sandbox.gone(), "all is gone already when the outer process ends"


@pytest.mark.parametrize("victim", ["outer", "inner", "janitor", "janitor and outer"])
def test_kill_leaves_nothing(script: Path, victim: str) -> None:
    sandbox = Sandbox(script, "time.sleep(1000)")
    if "janitor" in victim:
        os.kill(sandbox.janitor, signal.SIGKILL)
    if victim == "janitor":
        sandbox.process.terminate()
        assert sandbox.process.wait(20) == 143
        assert sandbox.gone(), "all is gone already when the outer process ends"
        return
    os.kill(sandbox.inner if victim == "inner" else sandbox.outer, signal.SIGKILL)
    assert sandbox.process.wait(20) == (128 + 9 if victim == "inner" else -9)
    if victim == "janitor and outer":
        # Nobody is left to remove the group; the next sandbox does.
        assert eventually(lambda: not sandbox.processes())
        assert sandbox.group.exists()
        assert eventually(lambda: sandbox.group in cgroups.remove_stale(sandbox.group.parent))
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
    sandbox.process.send_signal(number)
    output, _ = sandbox.process.communicate(timeout=20)
    assert (sandbox.process.returncode, output) == (code, said)
    assert sandbox.gone()


def test_a_script_that_does_not_end_is_killed(script: Path) -> None:
    script.write_text(SCRIPT.replace("sandbox.enter()", "sandbox._GRACE = 0.5; sandbox.enter()"))
    sandbox = Sandbox(
        script,
        "import signal; signal.signal(15, lambda *_: None); print('deaf', flush=True)\nwhile True: time.sleep(1000)",
    )
    assert sandbox.output.readline() == "deaf\n"
    sandbox.process.terminate()
    output, _ = sandbox.process.communicate(timeout=20)
    assert (sandbox.process.returncode, output) == (128 + 9, "")
    assert sandbox.gone()


def test_signal_to_process_and_group_counts_once(script: Path) -> None:
    # What `timeout` does: it signals its child, then the process group.
    sandbox = Sandbox(script, "time.sleep(1000)", start_new_session=True)
    for _ in range(3):
        os.kill(sandbox.outer, signal.SIGTERM)
        os.killpg(sandbox.outer, signal.SIGTERM)
    output, _ = sandbox.process.communicate(timeout=20)
    assert (sandbox.process.returncode, output) == (143, "unwound\n")
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
    output, _ = sandbox.process.communicate(timeout=20)
    assert (sandbox.process.returncode, output) == (77, "interrupted\nunwound\n")
    assert sandbox.gone()
    os.close(controller)
    os.close(terminal)


def test_two_sandboxes_do_not_see_each_other(script: Path) -> None:
    first, second = Sandbox(script, "time.sleep(1000)"), Sandbox(script, "time.sleep(1000)")
    assert not first.namespaces & second.namespaces
    for sandbox in (first, second):
        sandbox.process.terminate()
        sandbox.process.communicate(timeout=20)
        assert sandbox.gone()


def test_cleaning_removes_abandoned_groups_of_both_versions_and_no_others(script: Path) -> None:
    v2, v1 = cgroups.mount_point(), cgroups.v1_mount_point("cpu")
    sandbox = Sandbox(script, "time.sleep(1000)")
    names = {
        "abandoned": f"{cgroups.PREFIX}test-abandoned",
        "held": f"{cgroups.PREFIX}test-held",
        "strange": "test-strange",
    }
    made = {name: [root / directory / "host" for root in (v2, v1) if root] for name, directory in names.items()}
    for paths in made.values():
        for path in paths:
            path.mkdir(parents=True)
    held = cgroups.hold(v2 / names["held"])
    try:
        subprocess.run([sys.executable, "-m", "testbed.cli", "clean"], check=True)
        left = {name: [path for path in paths if path.exists()] for name, paths in made.items()}
        assert left == {**made, "abandoned": []}
        assert sandbox.processes()
    finally:
        os.close(held)
        cgroups.remove_stale(v2)
        for path in made["strange"]:
            path.rmdir()
            path.parent.rmdir()
        sandbox.process.terminate()
        sandbox.process.wait(20)
    assert not any(path.parent.exists() for paths in made.values() for path in paths)


def test_groups_of_version_1_go_with_the_sandbox(script: Path) -> None:
    root = cgroups.v1_mount_point("cpu")
    if root is None:
        return  # then there are none
    body = """
path = Path(sys.argv[2], sandbox.name(), "host")
path.mkdir(parents=True)
(path / "cgroup.procs").write_text(str(child.pid))
print(path, flush=True)
time.sleep(1000)
"""
    sandbox = Sandbox(script, body, str(root))
    path = Path(sandbox.output.readline().strip())
    assert path.exists() and path.parent.name == sandbox.group.name
    os.kill(sandbox.outer, signal.SIGKILL)
    assert eventually(lambda: not path.parent.exists())
    assert eventually(sandbox.gone)


def test_not_root_is_one_line(script: Path, tmp_path: Path) -> None:
    script.write_text("from testbed import sandbox\nsandbox.os.geteuid = lambda: 1000\nsandbox.enter()\n")
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip().endswith("run it with sudo.")
    assert len(run.stderr.strip().splitlines()) == 1
