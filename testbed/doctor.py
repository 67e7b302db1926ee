"""Can this machine run the testbed? Each check says what a failure means and what mends it."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from testbed import cgroups

_TCP_REPAIR = 19
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"

TOOLS = {
    "mnexec": "mininet",
    "ifconfig": "net-tools",
    "ip": "iproute2",
    "tc": "iproute2",
    "ethtool": "ethtool",
    "tcpdump": "tcpdump",
    "curl": "curl",
    "iperf3": "iperf3",
    "ping": "iputils-ping",
    "sysctl": "procps",
}
"""Command: its Debian package."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check."""

    name: str
    ok: bool
    required: bool
    detail: str
    """What was found, or what its absence means."""
    mend: str = ""
    """What to do about it."""


def _root() -> Check:
    ok = os.geteuid() == 0
    return Check("root", ok, True, "namespaces, TCP_REPAIR and BPF need it", "run it with sudo")


def _tcp_repair() -> Check:
    try:
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    except OSError as error:
        mend = "run as root with CAP_NET_ADMIN, on a kernel with CONFIG_CHECKPOINT_RESTORE"
        return Check("TCP_REPAIR", False, True, f"servers cannot hand connections over ({error.strerror})", mend)
    return Check("TCP_REPAIR", True, True, "servers can hand connections over")


def _bpf() -> Check:
    number = _SYS_BPF.get(platform.machine())
    if number is None:
        return Check("bpf", False, True, f"unknown system call number on {platform.machine()}", "use x86_64 or arm64")
    libc = ctypes.CDLL(None, use_errno=True)
    attributes = struct.pack("=5I", 2, 4, 4, 1, 0).ljust(72, b"\0")  # an array of one 4-byte value
    fd = libc.syscall(number, 0, attributes, len(attributes))
    if fd < 0:
        reason = os.strerror(ctypes.get_errno())
        mend = "run as root (in a container: --privileged), on a kernel with CONFIG_BPF_SYSCALL"
        return Check("bpf", False, True, f"the client cannot map connections ({reason})", mend)
    os.close(fd)
    return Check("bpf", True, True, "the client can map connections")


def _tcx() -> Check:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    return Check(
        "kernel 6.6",
        numbers >= (6, 6),
        True,
        f"this is {release}; tc programs are attached by TCX",
        "use Linux 6.6 or newer",
    )


def _cgroup() -> Check:
    try:
        return Check("cgroup v2", True, True, str(cgroups.mount_point()))
    except cgroups.CgroupError as error:
        what, _, mend = str(error).partition(": ")
        return Check("cgroup v2", False, True, what, mend)


def _ifb() -> Check:
    ok = _in_namespace("ip link add ifb9 type ifb")
    return Check("ifb", ok, True, "bandwidth of links from a host", "modprobe ifb")


def _netem() -> Check:
    ok = _in_namespace("tc qdisc add dev lo root netem delay 1ms")
    detail = "delay and loss by the kernel" if ok else "absent: delay and loss are emulated in user space"
    return Check("netem", ok, False, detail, "modprobe sch_netem, where the kernel has it")


def _ovs() -> Check:
    ok = shutil.which("ovs-vsctl", path=_PATH) is not None
    detail = "not needed: the testbed brings its own switch"
    return Check("Open vSwitch", ok, False, detail, "apt-get install openvswitch-switch, for OpenFlow experiments")


def _tool(name: str) -> Check:
    path = shutil.which(name, path=_PATH)
    return Check(
        name,
        path is not None,
        True,
        path or "not installed",
        f"make setup (or: apt-get install {TOOLS[name]})",
    )


def _in_namespace(command: str) -> bool:
    """Whether `command` works in a network namespace of its own, which goes away with it."""
    run = ["unshare", "--net", "sh", "-c", f"PATH={_PATH} {command}"]
    return subprocess.run(run, capture_output=True).returncode == 0


CHECKS: tuple[Callable[[], Check], ...] = (_root, _tcp_repair, _bpf, _tcx, _cgroup, _ifb, _netem, _ovs)


def examine() -> list[Check]:
    """Make all checks; changes nothing."""
    # Without root the others would fail for that reason alone.
    checks = CHECKS if os.geteuid() == 0 else [_root, _tcx, _cgroup, _ovs]
    return [check() for check in checks] + [_tool(name) for name in TOOLS]


def require(*tools: str) -> None:
    """Exit with one line when one of the commands `tools` is missing."""
    for check in (_tool(name) for name in tools):
        if not check.ok:
            sys.exit(f"{check.name} is {check.detail}: {check.mend}")


def main(as_json: bool = False) -> int:
    """Print all checks; 1 when something required is missing, else 0."""
    checks = examine()
    healthy = all(check.ok for check in checks if check.required)
    if as_json:
        print(json.dumps({"healthy": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
        return 0 if healthy else 1
    for check in checks:
        mark = "ok" if check.ok else "MISSING" if check.required else "absent"
        print(f"{mark:8}{check.name:14}{check.detail}" + ("" if check.ok else f"  ->  {check.mend}"))
    print("Ready." if healthy else "Not ready: what is MISSING must be mended first.")
    return 0 if healthy else 1
