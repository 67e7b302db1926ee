"""Can this machine run the testbed? Each check says what it found, what a failure means and what mends it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed import cgroups, database, machine, sandbox

_TCP_REPAIR = 19
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWPID, _CLONE_NEWNET = 0x20000, 0x2000000, 0x20000000, 0x40000000
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
_libc = ctypes.CDLL(None, use_errno=True)

TOOLS = {
    "mnexec": "mininet",
    "ifconfig": "net-tools",
    "ip": "iproute2",
    "tc": "iproute2",
    "ethtool": "ethtool",
    "nft": "nftables",
    "tcpdump": "tcpdump",
    "curl": "curl",
    "iperf3": "iperf3",
    "ping": "iputils-ping",
    "sysctl": "procps",
}
"""Command: its Debian package."""

MORE_TOOLS = {
    "gcc": ("setup", "gcc libc6-dev", "the strict client, which experiments and tests compile"),
    "tshark": ("setup", "tshark", "tests of the Wireshark dissector"),
    "nginx": ("setup", "nginx-light", "the scenario `nginx`, and tests of the sidecar"),
    "wget": ("setup", "wget", "the scenario `nginx`, and tests of the sidecar"),
    "wrk": ("setup", "wrk", "the scenario `nginx`, and tests of the sidecar"),
    "ffmpeg": ("setup", "ffmpeg", "the scenario `video`"),
    "postgres": ("setup", "postgresql", "the database of the scenario `postgres`, of its soak, bench and tests"),
    "psql": ("setup", "postgresql", "tests of the front-end of PostgreSQL"),
    "pgbench": ("setup", "postgresql", "make bench-postgres, and tests of the front-end of PostgreSQL"),
    "qemu-system-x86_64": ("test-vm", "qemu-system-x86", "tests on a kernel with netem and Open vSwitch"),
}
"""What the network itself can do without: what `make` installs it, its Debian packages, what needs it."""

_ASK_VERSION = {
    "mnexec": "-v", "ifconfig": "-V", "ip": "-V", "tc": "-V", "ping": "-V", "nginx": "-v", "wrk": "-v",
    "ffmpeg": "-version",
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """Outcome of one check."""

    name: str
    """Stays the same: the key in JSON."""
    ok: bool
    required: bool
    """Whether nothing runs without it."""
    detail: str
    """What was found, and what that means."""
    mend: str = ""
    """What to do about it."""


def _root() -> Check:
    ok = os.geteuid() == 0
    return Check("root", ok, True, "namespaces, TCP_REPAIR and BPF need it", "run it with sudo")


def _cores() -> Check:
    cores = len(os.sched_getaffinity(0))
    detail = f"{cores} of them: " + ("enough" if cores > 1 else "link emulation and hosts disturb each other")
    return Check("cores", cores > 1, False, detail, "give the machine two or more, or expect invalid runs")


def _memory() -> Check:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) / 1e6
    detail = f"{available:.1f} GB available; the demo file (500 MB), logs and captures of a run are in memory"
    return Check("memory", available > 1.5, False, detail, "close other programs, or give the machine 2 GB more")


def _kernel() -> Check:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    how = "TCX" if numbers >= (6, 6) else "tc filters, as there is no TCX before 6.6"
    detail = f"this is {release}; BPF programs are attached by {how}"
    return Check("kernel", numbers >= (6, 1), True, detail, "use Linux 6.1 or newer: nobody has tried older ones")


def _namespaces() -> Check:
    wanted = _CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWPID | _CLONE_NEWNET
    child = os.fork()
    if child == 0:
        os._exit(ctypes.get_errno() if _libc.unshare(wanted) else 0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    detail = "each run has its own network, processes, mounts and control groups" if code == 0 else os.strerror(code)
    return Check("namespaces", code == 0, True, detail, "run as root (in a container: --privileged)")


def _tcp_repair() -> Check:
    try:
        with socket.socket() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    except OSError as error:
        mend = "run as root with CAP_NET_ADMIN, on a kernel with CONFIG_CHECKPOINT_RESTORE"
        return Check("tcp_repair", False, True, f"servers cannot hand connections over ({error.strerror})", mend)
    return Check("tcp_repair", True, True, "servers can hand connections over")


def _bpf() -> Check:
    number = _SYS_BPF.get(platform.machine())
    if number is None:
        return Check("bpf", False, True, f"unknown system call number on {platform.machine()}", "use x86_64 or arm64")
    attributes = struct.pack("=5I", 2, 4, 4, 1, 0).ljust(72, b"\0")  # an array of one 4-byte value
    fd = _libc.syscall(number, 0, attributes, len(attributes))
    if fd < 0:
        reason = os.strerror(ctypes.get_errno())
        mend = "run as root (in a container: --privileged), on a kernel with CONFIG_BPF_SYSCALL"
        return Check("bpf", False, True, f"the client cannot map connections ({reason})", mend)
    os.close(fd)
    return Check("bpf", True, True, "the client can map connections")


def _cgroup2() -> Check:
    try:
        return Check("cgroup2", True, True, f"{cgroups.mount_point()}: runs, and hosts' BPF programs, hang on it")
    except cgroups.CgroupError as error:
        what, _, mend = str(error).partition(": ")
        return Check("cgroup2", False, True, what, mend)


def _cpu_controller() -> Check:
    mend = "mkdir -p /sys/fs/cgroup/cpu && mount -t cgroup -o cpu cgroup /sys/fs/cgroup/cpu"
    v1 = cgroups.v1_mount_point("cpu")
    if v1 is not None:
        return Check("cpu_controller", True, False, f"version 1, {v1}: CPU quotas of hosts")
    with contextlib.suppress(OSError, cgroups.CgroupError):
        v2 = cgroups.mount_point()
        if "cpu" in (v2 / "cgroup.controllers").read_text().split():
            return Check("cpu_controller", True, False, f"version 2, {v2}: CPU quotas of hosts")
    return Check("cpu_controller", False, False, "no CPU quotas of hosts: neither version of cgroups has it", mend)


def _bridge() -> Check:
    ok = _in_namespace("ip link add veth0 type veth peer name veth1 && ip link add bridge0 type bridge")
    return Check("bridge", ok, True, "veth and bridge: links and switches", "modprobe -a veth bridge")


def _tbf() -> Check:
    ok = _in_namespace("tc qdisc add dev lo root tbf rate 1mbit burst 15k limit 15k")
    return Check("tbf", ok, True, "bandwidth and buffer of links", "modprobe sch_tbf")


def _mirred() -> Check:
    mirror = "u32 match u32 0 0 action mirred egress mirror dev lo"
    ok = _in_namespace(f"tc qdisc add dev lo ingress && tc filter add dev lo parent ffff: protocol all {mirror}")
    return Check("mirred", ok, True, "bandwidth of links", "modprobe -a sch_ingress cls_u32 act_mirred")


def _netem() -> Check:
    ok = _in_namespace("tc qdisc add dev lo root netem delay 1ms")
    detail = "delay and loss by the kernel" if ok else "absent: delay and loss are emulated in user space (delay_line)"
    return Check(
        "netem", ok, False, detail, "modprobe sch_netem, where the kernel has it (make test-vm boots one that does)"
    )


def _delay_line() -> Check:
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    except OSError as error:
        detail = f"no delay and loss without netem ({error.strerror})"
        return Check("delay_line", False, False, detail, "run as root, on a kernel with CONFIG_PACKET")
    return Check("delay_line", True, False, "delay and loss in user space, where netem is absent or not wanted")


def _realtime() -> Check:
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, before, parameters)
    except OSError as error:
        mend = "run as root (in a container: --cap-add SYS_NICE); with cgroup v1, raise cpu.rt_runtime_us of its group"
        detail = f"the delay line is late when the machine is busy ({error.strerror})"
        return Check("realtime", False, False, detail, mend)
    return Check("realtime", True, False, "the delay line is on time also when the machine is busy (SCHED_FIFO)")


def _mptcp() -> Check:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP):
            pass
    except OSError as error:
        detail = f"no comparison with Multipath TCP ({error.strerror})"
        return Check("mptcp", False, False, detail, "sysctl net.mptcp.enabled=1, on a kernel with CONFIG_MPTCP")
    return Check("mptcp", True, False, "comparison with Multipath TCP")


def _congestion_controls() -> Check:
    found = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    detail = f"{', '.join(found)}; hosts use cubic unless told otherwise"
    return Check("congestion_controls", "cubic" in found, True, detail, "modprobe tcp_cubic")


def _openvswitch() -> Check:
    installed, tool = _version("ovs-vsctl")
    kernel = Path("/sys/module/openvswitch").exists() or _succeeds(["modprobe", "--dry-run", "openvswitch"])
    detail = (
        f"{tool or 'not installed'}, kernel module {'there' if kernel else 'absent'}; the testbed has its own switch"
    )
    mend = "apt-get install openvswitch-switch, on a kernel with the module, for OpenFlow (make test-vm has both)"
    return Check("openvswitch", installed and kernel, False, detail, mend)


def _tool(name: str) -> Check:
    ok, version = _version(name)
    return Check(name, ok, True, version, _install(TOOLS[name]))


def _more_tool(name: str) -> Check:
    (ok, version), (target, package, use) = _version(name), MORE_TOOLS[name]
    return Check(name, ok, False, f"{version}; {use}", _install(package, target))


def _install(package: str, target: str = "setup") -> str:
    return f"make {target} (or: apt-get install {package})"


def _version(name: str) -> tuple[bool, str]:
    """Whether the command `name` can be run; which version it says it is, or else where it is, or what is wrong."""
    path = shutil.which(name, path=_PATH) or database.find(name)
    if path is None:
        return False, "not installed"
    try:
        run = subprocess.run([path, _ASK_VERSION.get(name, "--version")], capture_output=True, text=True)
    except OSError as error:
        return False, f"{path} cannot be run ({error.strerror})"
    # Some write it to standard error, and some warn there before.
    number = re.search(r"\d+(\.\d+)+|\d{8}", run.stdout.strip() or run.stderr)
    return True, number[0] if number else path


def _in_namespace(command: str) -> bool:
    """Whether `command` works in a network namespace of its own, which goes away with it."""
    return _succeeds(["unshare", "--net", "sh", "-c", f"PATH={_PATH} && {command}"])


def _succeeds(command: list[str]) -> bool:
    path = shutil.which(command[0], path=_PATH)
    return path is not None and subprocess.run([path, *command[1:]], capture_output=True).returncode == 0


FOR_ANYBODY: tuple[Callable[[], Check], ...] = (
    _root,
    _cores,
    _memory,
    _kernel,
    _cgroup2,
    _cpu_controller,
    _congestion_controls,
    _mptcp,
    _openvswitch,
)
FOR_ROOT: tuple[Callable[[], Check], ...] = (
    _namespaces,
    _tcp_repair,
    _bpf,
    _bridge,
    _tbf,
    _mirred,
    _netem,
    _delay_line,
    _realtime,
)
"""Checks that fail for the want of root alone."""


def examine() -> list[Check]:
    """Make all checks, those of FOR_ROOT as root only; changes nothing."""
    checks = [*FOR_ANYBODY, *(FOR_ROOT if os.geteuid() == 0 else ())]
    tools = [*map(_tool, TOOLS), *map(_more_tool, MORE_TOOLS)]
    return [*(check() for check in checks), *tools]


def require(*tools: str) -> None:
    """Exit with one line when one of the commands `tools` is missing."""
    for name in tools:
        if shutil.which(name, path=_PATH) is None:
            sys.exit(f"{name} is not installed: {_install(TOOLS[name])}")


def require_all() -> None:
    """Exit with one line when trials of experiments cannot be performed here: without root, or a command."""
    sandbox.require_root()
    require("mnexec", "ip", "tc", "ifconfig", "tcpdump", "ethtool")


def main(as_json: bool = False) -> int:
    """Print all checks; 1 when something required is missing, else 0.

    In JSON: `healthy`, `checks` {name: its fields}, and `versions` as they are noted with results.
    """
    checks = examine()
    healthy = all(check.ok for check in checks if check.required)
    if as_json:
        fields = {check.name: {k: v for k, v in asdict(check).items() if k != "name"} for check in checks}
        print(json.dumps({"healthy": healthy, "checks": fields, "versions": machine.versions()}, indent=2))
        return 0 if healthy else 1
    for check in checks:
        mark = "ok" if check.ok else "MISSING" if check.required else "absent"
        print(f"{mark:8}{check.name:20}{check.detail}" + ("" if check.ok else f"  ->  {check.mend}"))
    software = ["kernel", "python", *machine.PACKAGES]
    versions = [f"{name} {version}" for name, version in machine.versions().items() if name in software]
    print(f"{'':8}{'versions':20}{', '.join(versions)}")
    print("Ready." if healthy else "Not ready: what is MISSING must be mended first.")
    return 0 if healthy else 1
