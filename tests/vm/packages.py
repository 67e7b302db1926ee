"""A Debian kernel, and Open vSwitch: packages fetched by apt into a cache, unpacked there, never installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".vm"
_KERNEL = re.compile(r"linux-image-(\d+)\.(\d+)(?:\.(\d+))?-?(\d+)?(?:\+deb\d+)?-amd64")  # no rt, cloud, dbg, unsigned


class VmError(Exception):
    """There can be no virtual machine; the message, one line, says what to do."""


def kernel(package: str | None) -> Path:
    """Directory with boot/vmlinuz-RELEASE and lib/modules/RELEASE of `package`; None: the newest that apt offers."""
    package = package or _newest()
    directory = CACHE / package
    if not directory.exists():
        print(f"Fetching {package} (100 MB, once)", flush=True)
        unfinished = CACHE / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _apt("download", package, where=unfinished)
        for archive in unfinished.glob("*.deb"):
            _run("dpkg-deb", "-x", str(archive), str(unfinished))
            archive.unlink()
        for modules in unfinished.glob("lib/modules/*"):
            _run("depmod", "-b", str(unfinished), modules.name)
        unfinished.rename(directory)
    return directory


def open_vswitch() -> list[Path]:
    """Packages that this machine lacks for Open vSwitch; installed, it would start a service."""
    directory = CACHE / "openvswitch"
    if not directory.exists():
        directory.mkdir(parents=True)
        only_fetch = ["-y", "--download-only", "--no-install-recommends", "-o", "Debug::NoLocking=1"]
        _apt("install", *only_fetch, "-o", f"Dir::Cache::archives={directory}", "openvswitch-switch", where=directory)
    return sorted(directory.glob("*.deb"))


def _newest() -> str:
    known = _run("apt-cache", "pkgnames", "linux-image-").split()
    versions = {name: match.groups(default="0") for name in known if (match := _KERNEL.fullmatch(name))}
    if not versions:
        raise VmError("apt offers no linux-image-VERSION-amd64: this needs Debian on x86_64 (sudo apt-get update?)")
    return max(versions, key=lambda name: [int(number) for number in versions[name]])


def _apt(*command: str, where: Path) -> None:
    # As its own user apt could not write here, and says so.
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", *command, where=where)


def _run(*command: str, where: Path = CACHE) -> str:
    program = shutil.which(command[0], path="/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
    if program is None:
        raise VmError(f"{command[0]} is missing: make test-vm installs it where there is apt")
    where.mkdir(parents=True, exist_ok=True)
    run = subprocess.run([program, *command[1:]], cwd=where, capture_output=True, text=True)
    if run.returncode != 0:
        said = (run.stderr or run.stdout).strip().splitlines()[-1:] or ["it failed"]
        raise VmError(f"{' '.join(command)}: {said[0]} (sudo apt-get update may help)")
    return run.stdout
