"""Mininet nodes: hosts with a control group and known sysctls, and a switch that fails loudly."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mininet.log import warn
from mininet.node import Host, Node, Switch

from testbed import cgroups, controllers, cpu, memory, sandbox
from testbed.processes import CommandError, checked

SYSCTLS: Mapping[str, str] = {
    # A new namespace takes the machine's settings, and those differ from one machine to the next.
    "net.ipv4.tcp_congestion_control": "cubic",
    "net.ipv4.tcp_rmem": "4096 131072 6291456",
    "net.ipv4.tcp_wmem": "4096 16384 4194304",
    # From the size of the table of connections, which is the machine's memory, or a sandbox's choice.
    "net.ipv4.tcp_max_syn_backlog": "2048",
    "net.ipv4.tcp_max_tw_buckets": "131072",
    # Repetitions must not learn from each other.
    "net.ipv4.tcp_no_metrics_save": "1",
    "net.mptcp.enabled": "0",
}
"""What every host is set to unless told otherwise (kernel defaults, but for the last two)."""

RECORDED = (
    "net.ipv4.tcp_sack",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_window_scaling",
    "net.ipv4.tcp_ecn",
    "net.ipv4.tcp_mtu_probing",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_min_rto_us",
)
"""Left as they are, but noted with the results."""


class Watched(Node):
    """A node whose shell may be killed: that is said, where Mininet would wait for ever."""

    def sendCmd(self, *args: Any, **options: Any) -> None:
        """Have the shell run a command; CommandError when it is dead."""
        require_shell(self)
        super().sendCmd(*args, **options)

    def sendInt(self, *args: Any) -> None:
        """Press Ctrl-C in the shell; CommandError when it is dead."""
        require_shell(self)
        super().sendInt(*args)

    def waitReadable(self, timeoutms: float | None = None) -> Any:
        """Wait for output of the shell, `timeoutms` milliseconds at most; CommandError when it dies."""
        while True:
            ready = super().waitReadable(100 if timeoutms is None else timeoutms)
            if ready or self.readbuf or timeoutms is not None:
                return ready
            require_shell(self)

    def cmd(self, *args: Any, **options: Any) -> Any:
        """Run a command in the shell and return what it prints; a dead shell prints nothing."""
        try:
            return super().cmd(*args, **options)
        except CommandError as error:
            warn(f"{error}\n")
            return ""


def require_shell(node: Node) -> None:
    """CommandError when the shell of `node` has been killed."""
    if node.shell is not None and node.shell.poll() is not None:
        node.waiting = False
        raise CommandError(f"{node}: its shell has been killed: leave, and start again")


class MtcpHost(Watched, Host):
    """A host all of whose processes, whatever starts them, are in a control group of its own (`cgroup`)."""

    def __init__(
        self,
        name: str,
        sysctls: Mapping[str, str] | None = None,
        cpu_cores: float | None = None,
        memory_mib: float | None = None,
        **params: Any,
    ) -> None:
        """`sysctls` are added to SYSCTLS. `cpu_cores`, `memory_mib`: limits (testbed.cpu, testbed.memory).

        Only in a sandbox. CommandError when a sysctl cannot be set; CpuError, MemoryLimitError, CgroupError when a
        limit cannot.
        """
        if not sandbox.inside():
            raise RuntimeError("hosts are made inside a sandbox: call testbed.sandbox.enter() first")
        self.cgroup: Path = cgroups.make(sandbox.CGROUP, name)
        self._v1_groups = controllers.directories(name)
        self.sysctls: dict[str, str] = {}
        self.limits: dict[str, float | None] = {"cpu_cores": None, "memory_mib": None}
        super().__init__(name, **params)
        self.set_sysctls({**SYSCTLS, **(sysctls or {})})
        if cpu_cores is not None:
            cpu.set_cpu(self, cpu_cores)
        if memory_mib is not None:
            memory.set_memory(self, memory_mib)

    def config(self, ip6: str | None = None, **params: Any) -> dict[str, Any]:
        """`ip6`: ADDRESS/PREFIX of the first interface, beside Mininet's parameters."""
        result: dict[str, Any] = super().config(**params)
        if ip6 is not None:
            # Nobody else has it: no second of waiting for whoever does.
            checked(self, "ip", "address", "add", ip6, "dev", self.defaultIntf().name, "nodad")
        return result

    def _popen(self, cmd: list[str], **params: Any) -> subprocess.Popen[bytes]:
        """Start `cmd` in the host's control groups (mnexec -a takes over namespaces, not groups)."""
        # The programs of the virtual environment come first, so that `client mtcp ls` finds them.
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        params["env"] = {**(params.get("env") or os.environ), "PATH": path}
        # First the one that others are filled from (testbed.controllers).
        groups = shlex.join(f"{group}/cgroup.procs" for group in (self.cgroup, *self._v1_groups))
        join = f'for group in {groups}; do [ ! -e "$group" ] || echo 0 > "$group" || exit 125; done; exec "$@"'
        process: subprocess.Popen[bytes] = super()._popen(["sh", "-c", join, "sh", *cmd], **params)
        return process

    def terminate(self) -> None:
        """End all that runs on the host, and remove its control group."""
        super().terminate()
        cgroups.remove(self.cgroup, *self._v1_groups)

    def set_sysctls(self, values: Mapping[str, str]) -> None:
        """Set `values` in the host's network namespace and note what the kernel made of them in `sysctls`.

        CommandError for what the kernel does not have, unless it is one of SYSCTLS as it is there.
        """
        settings = [f"{name}={value}" for name, value in values.items() if _known(name) or SYSCTLS.get(name) != value]
        checked(self, "sysctl", "-qw", *settings)
        names = [name for name in (*values, *RECORDED) if _known(name)]
        kernel = checked(self, "sysctl", "-n", *names).splitlines()
        self.sysctls |= {name: " ".join(value.split()) for name, value in zip(names, kernel, strict=True)}
        for name, value in values.items():
            if self.sysctls.get(name, value) != value:
                raise CommandError(f"{self}: sysctl {name} is {self.sysctls[name]}, not {value}")


class Router(Watched, Host):
    """A router between the networks of its interfaces; also outside a sandbox."""

    def config(self, discarded: Sequence[str] = (), **params: Any) -> dict[str, Any]:
        """`discarded`: networks of which nobody hears again. CommandError when it cannot be one."""
        result: dict[str, Any] = super().config(**params)
        # Hosts may send with sources that are not theirs, if the experiment says so.
        settings = "for each in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $each; done"
        checked(self, "sh", "-c", f"echo 1 > /proc/sys/net/ipv4/ip_forward && {settings}")
        for network in discarded:
            checked(self, "ip", "route", "replace", "blackhole", network)
        return result


class BridgeSwitch(Watched, Switch):
    """A learning switch: the kernel's bridge, without spanning tree."""

    def __init__(self, name: str, **params: Any) -> None:
        # OpenFlow's data path id means nothing here, and Mininet cannot derive one from every name.
        super().__init__(name, **{"dpid": "1", **params})

    def start(self, _controllers: object) -> None:
        """Make the bridge and put all interfaces of the switch into it; CommandError if that fails."""
        options = ["stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"]
        checked(self, "ip", "link", "add", self.name, "type", "bridge", *options)
        # Where br_netfilter is built in, bridged packets would go through this namespace's netfilter hooks.
        for table in ("ip", "ip6", "arp"):
            name = f"net.bridge.bridge-nf-call-{table}tables"
            if sandbox.inside() and _known(name):
                checked(self, "sysctl", "-qw", f"{name}=0")
        for interface in self.intfNames():
            if interface != "lo":
                checked(self, "ip", "link", "set", interface, "master", self.name, "up")
        checked(self, "ip", "link", "set", self.name, "up")

    def stop(self, deleteIntfs: bool = True) -> None:
        """Remove the bridge."""
        self.pexec(["ip", "link", "delete", self.name])
        super().stop(deleteIntfs)

    def connected(self) -> bool:
        """There is no controller to wait for."""
        return True


def _known(sysctl: str) -> bool:
    """Whether the kernel has `sysctl`: older ones lack some, and some are built without MPTCP."""
    return Path("/proc/sys", *sysctl.split(".")).exists()
