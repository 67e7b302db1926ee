"""The initial file system: what the kernel needs to find the host's root, and no more."""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.vm.packages import VmError

_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
_INIT = Path(__file__).with_name("init.sh")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def make(kernel: Path, release: str) -> Path:
    """An initrd for the unpacked `kernel`, made once; init.sh runs in it."""
    initrd = kernel / "initrd"
    if initrd.exists() and initrd.stat().st_mtime > _INIT.stat().st_mtime:
        return initrd
    busybox = shutil.which("busybox")
    if busybox is None:
        raise VmError("busybox is missing: apt-get install busybox-static")
    with tempfile.TemporaryDirectory(prefix="initrd-", dir=kernel) as name:
        root = Path(name)
        for directory in ("bin", "modules", "proc", "sys", "dev", "host", "upper", "root"):
            (root / directory).mkdir()
        shutil.copy(busybox, root / "bin/busybox")
        shutil.copy(_INIT, root / "init")
        (root / "init").chmod(0o755)
        for number, module in enumerate(_files(kernel, release)):
            content = lzma.decompress(module.read_bytes()) if module.suffix == ".xz" else module.read_bytes()
            (root / "modules" / f"{number:02}-{module.name.removesuffix('.xz')}").write_bytes(content)
        names = "\0".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        cpio = ["cpio", "--null", "--create", "--quiet", "--format=newc", "--owner=0:0", "--file=../initrd-unfinished"]
        subprocess.run(cpio, cwd=root, input=names, text=True, check=True)
    return (kernel / "initrd-unfinished").rename(initrd)


def _files(kernel: Path, release: str) -> list[Path]:
    """The modules and those that they need, in the order of loading."""
    modprobe = shutil.which("modprobe", path=_SBIN)
    if modprobe is None:
        raise VmError("modprobe is missing: apt-get install kmod")
    command = [modprobe, "--show-depends", "--all", "--dirname", str(kernel), "--set-version", release, *_MODULES]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    # "insmod FILE"; what is built in is a "builtin NAME".
    return list(dict.fromkeys(Path(line.split()[1]) for line in lines if line.startswith("insmod ")))
