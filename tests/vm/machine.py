"""The virtual machine: qemu without KVM, with the host's files; one command runs in it."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.vm import initrd
from tests.vm.packages import CACHE, VmError

_GUEST = Path(__file__).with_name("guest.sh")
_MACHINE = """
    -accel tcg -cpu max -m 3072 -nodefaults -no-user-config -no-reboot -display none
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap
    -chardev stdio,id=out,signal=off -device virtio-serial -device virtserialport,chardev=out
    -device isa-debug-exit,iobase=0xf4,iosize=0x01
"""
# What protects kernels costs much of an emulated processor's time.
_ARGUMENTS = "console=ttyS0 panic=-1 mitigations=off init_on_alloc=0 apparmor=0 audit=0"
_SHOWN = 30  # lines of the console when a machine fails


def run(kernel: Path, packages: Sequence[Path], command: Sequence[str], timeout: float) -> int:
    """Boot `kernel`, unpack `packages`, run `command` as root in this directory, show what it prints; its exit code.

    It sees the host's files; what it writes goes with the machine. VmError when the machine cannot run, dies, or
    takes longer than `timeout` seconds. It never outlives this process.
    """
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None or platform.machine() != "x86_64":
        raise VmError("this needs x86_64 and qemu-system-x86_64: apt-get install qemu-system-x86")
    (vmlinuz,) = kernel.glob("boot/vmlinuz-*")
    image = initrd.make(kernel, vmlinuz.name.removeprefix("vmlinuz-"))
    for left in CACHE.glob("run-*"):  # by a process that was killed
        if not Path("/proc", left.name.split("-")[1]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"run-{os.getpid()}-", dir=CACHE) as name:
        directory = Path(name)
        (directory / "command").write_text(f"cd {shlex.quote(str(Path.cwd()))} && {shlex.join(command)}\n")
        (directory / "packages").write_text("".join(f"{package}\n" for package in packages))
        console = directory / "console"
        variables = {"MTCP_VM": directory, "MTCP_VM_KERNEL": kernel, "MTCP_VM_GUEST": _GUEST}
        arguments = " ".join([_ARGUMENTS, *(f'{name}="{value}"' for name, value in variables.items())])
        files = ["-kernel", str(vmlinuz), "-initrd", str(image), "-append", arguments, "-serial", f"file:{console}"]
        processors = ["-smp", str(min(4, os.cpu_count() or 1))]
        qemu_command = ["setpriv", "--pdeathsig", "KILL", qemu, *shlex.split(_MACHINE), *processors, *files]
        sys.stdout.flush()
        with subprocess.Popen(qemu_command, stdin=subprocess.PIPE) as machine:
            try:
                code = machine.wait(timeout)
            except subprocess.TimeoutExpired:
                raise VmError(f"not done after {timeout:g} s; {_last(console)}") from None
            finally:
                machine.kill()
        if code & 1 == 0 or code < 0:  # isa-debug-exit turns N into 2 * N + 1
            raise VmError(f"the machine ended (qemu's exit code {code}) before the command did; {_last(console)}")
    return code >> 1


def _last(console: Path) -> str:
    lines = console.read_text(errors="replace").splitlines() if console.exists() else []
    return "the last that its kernel said:\n" + "\n".join(lines[-_SHOWN:])
