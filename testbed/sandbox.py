"""A sandbox per experiment: its own network, mounts, processes and control groups; nothing of it outlives it.

A script calls `enter()` first thing. Outside a sandbox that runs the same command line again inside one,
waits, and exits with its code; inside it returns. Three processes carry it:

    outer    the process the user started. Passes signals on, returns the exit code.
    inner    the script. Process 1 of its pid namespace: when it dies, in whatever way, all others do.
             The kernel kills it when outer dies.
    janitor  waits until outer is gone, then kills what may be left in the control group and removes that.
             Where it has been killed itself, outer does it; where both have, the next sandbox or `testbed clean`.

Network interfaces, qdiscs, mounts and pinned BPF objects go with their namespaces, those with the processes.
Outer and inner share the terminal's foreground process group: Ctrl-C reaches the script as if it were alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from testbed import cgroups

RUN = Path("/run/mtcp")
"""The sandbox's private tmpfs, the same on all its hosts. Mininet hosts hide /sys, so all mounts are here."""
CGROUP = RUN / "cgroup"
"""The sandbox's own control group; hosts' groups are under it, and `_LEAF`, which the script itself is in."""
BPFFS = RUN / "bpf"
"""Private BPF file system for pinned objects."""

_VARIABLE = "MTCP_SANDBOX"
_TCP_TABLE = Path("/proc/sys/net/ipv4/tcp_child_ehash_entries")
_TCP_TABLE_SIZE = 16384
"""Buckets of each host's own table of connections. Whoever lists these (ss, probes) has all of the table walked."""
_LEAF = "_script"
_GRACE = 10.0  # seconds from SIGTERM to SIGKILL
_STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_WATCHED = _STOPPING | {signal.SIGCHLD, signal.SIGTSTP}

_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWPID, _CLONE_NEWNET = 0x20000, 0x2000000, 0x20000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_libc = ctypes.CDLL(None, use_errno=True)


def inside() -> bool:
    """Whether this process runs in a sandbox."""
    return _VARIABLE in os.environ


def require_root() -> None:
    """Exit with one line without it."""
    if os.geteuid() != 0:
        sys.exit("This needs root (network namespaces, TCP_REPAIR, BPF): run it with sudo.")


def end_with(parent: int) -> None:
    """Before `enter`: end, as by SIGTERM, when `parent` does: the process that started this one. At once if it has."""
    if inside():
        return  # the outer process does
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


def enter() -> None:
    """Return inside a sandbox. Outside: run this command line again in a new one, and exit with its code.

    To be called before threads are started or files written. Exits with one line when that is impossible.
    """
    if inside():
        # From here SIGTERM and SIGHUP unwind the script (`finally`, `with`); process 1 would ignore them.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        return
    require_root()
    try:
        _allow_congestion_controls()
        parent = cgroups.mount_point()
        cgroups.remove_stale(parent)
        group, held = _make_group(parent)
    except cgroups.CgroupError as error:
        sys.exit(str(error))
    sys.exit(_supervise(group, held))


def name() -> str:
    """What the sandbox's control groups are called, in all hierarchies; only inside a sandbox."""
    return os.environ[_VARIABLE]


def name_hosts(addresses: Mapping[str, str]) -> None:
    """Let `addresses` {name: IP address} be the names that resolve in this sandbox (its own /etc/hosts).

    Hosts made before the first call do not see it.
    """
    if not inside():
        raise RuntimeError("only a sandbox has its own /etc/hosts")
    lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{ip} {name}" for name, ip in addresses.items())]
    private = RUN / "hosts"
    private.write_text("\n".join(lines) + "\n")
    if not Path("/etc/hosts").samefile(private):
        _mount(str(private), "/etc/hosts", None, _MS_BIND)


def _make_group(parent: Path) -> tuple[Path, int]:
    """A control group of a new name, and the descriptor that holds it."""
    while True:
        group = cgroups.make(parent, cgroups.PREFIX + secrets.token_hex(4))
        # Another sandbox that tidies up may have been faster than our hold.
        with contextlib.suppress(FileNotFoundError):
            return group, cgroups.hold(group)


def _allow_congestion_controls() -> None:
    """Let namespaces choose among all congestion controls of the kernel.

    The kernel refuses a namespace's default that is not on the machine's list of allowed ones, and only the
    initial namespace can write that list. It is a permission: nothing behaves differently for it.
    """
    settings = Path("/proc/sys/net/ipv4")
    with contextlib.suppress(OSError):  # then a host that needs more says so
        available = (settings / "tcp_available_congestion_control").read_text()
        allowed = settings / "tcp_allowed_congestion_control"
        if set(allowed.read_text().split()) != set(available.split()):
            allowed.write_text(available)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    # Senders often reach both a process and its group: a second signal must not disturb.
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def _supervise(group: Path, held: int) -> int:
    """The outer process: start janitor and inner, pass signals on, return inner's exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Blocked here, taken by sigtimedwait below; the inner process unblocks them in `enter`, so none is lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    end_of_life, life = os.pipe()
    janitor = os.fork()
    if janitor == 0:
        _janitor(group, held, end_of_life, life)
    os.close(end_of_life)
    # Only the next child is in the new pid namespace, as its process 1.
    _check(_libc.unshare(_CLONE_NEWPID), "unshare")
    inner = os.fork()
    if inner == 0:
        _inner(group)
    code = _relay_signals(inner)
    os.close(life)
    os.waitpid(janitor, 0)
    cgroups.remove(group)
    return code


def _relay_signals(inner: int) -> int:
    """Pass signals on to the process `inner` until it ends; its exit code as a shell would tell it."""
    kill_at = float("inf")
    while True:
        got = signal.sigtimedwait(_WATCHED, max(0.0, min(kill_at - time.monotonic(), 3600.0)))
        if time.monotonic() > kill_at:
            os.kill(inner, signal.SIGKILL)
            kill_at = float("inf")
        if got is None:
            continue
        if got.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(inner, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        # si_code > 0: from the terminal, which has sent it to the inner process as well.
        elif got.si_signo in _STOPPING and got.si_code <= 0:
            os.kill(inner, got.si_signo)
            if got.si_signo != signal.SIGINT:
                kill_at = min(kill_at, time.monotonic() + _GRACE)


def _janitor(group: Path, held: int, end_of_life: int, life: int) -> NoReturn:
    """Wait for the end of the outer process, then remove the control group and what is in it."""
    os.setsid()  # out of reach of Ctrl-C and hang-ups
    _libc.prctl(_PR_SET_NAME, b"mtcp-janitor", 0, 0, 0)
    os.close(life)
    # Whoever reads our output waits until all have closed it.
    kept = sorted((held, end_of_life))
    for first, last in zip((-1, *kept), (*kept, os.sysconf("SC_OPEN_MAX")), strict=True):
        os.closerange(first + 1, last)
    os.read(end_of_life, 1)
    os._exit(0 if cgroups.remove(group) else 1)


def _inner(group: Path) -> NoReturn:
    """Become the sandbox: join the control group, make namespaces and mounts, run the script again."""
    try:
        _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        # First the group, then its namespace: that makes the group the namespace's root.
        (group / "cgroup.procs").write_text("0")
        _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWNET), "unshare")
        _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
        _mount("proc", "/proc", "proc")
        RUN.mkdir(exist_ok=True)
        _mount("tmpfs", str(RUN), "tmpfs", data="mode=755")
        for path, kind in ((CGROUP, "cgroup2"), (BPFFS, "bpf")):
            path.mkdir()
            _mount(kind, str(path), kind)
        # Version 2 lets a group with processes of its own have no controllers for those under it.
        (CGROUP / _LEAF).mkdir()
        (CGROUP / _LEAF / "cgroup.procs").write_text("0")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with contextlib.suppress(OSError):  # Linux 6.1: before, all share the machine's
            _TCP_TABLE.write_text(str(_TCP_TABLE_SIZE))
        os.environ[_VARIABLE] = group.name
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"Cannot make the sandbox: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _check(_libc.mount(*texts[:3], ctypes.c_ulong(flags), texts[3]), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
