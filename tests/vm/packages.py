"""A Debian kernel, and Open vSwitch: packages fetched by apt into a cache, unpacked there, never installed."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".vm"
_KERNEL = re.compile(r"linux-image-(\d+)\.(\d+)(?:\.(\d+))?-?(\d+)?(?:\+deb\d+)?-amd64")  # no rt, cloud, dbg, unsigned


class VmError(Exception):
    """There can be no virtual machine; the message, one line, says what to do."""


def kernel(package: str | None) -> Path:
    """Directory with boot/vmlinuz-RELEASE and lib/modules/RELEASE of `package`; None: the newest that apt offers."""
    package = package or _newest()
    with _filled(CACHE / package, f"{package} (100 MB)") as unfinished:
        if unfinished is not None:
            _apt("download", package, where=unfinished)
            for archive in unfinished.glob("*.deb"):
                _run("dpkg-deb", "-x", str(archive), str(unfinished))
                archive.unlink()
            for modules in unfinished.glob("lib/modules/*"):
                _run("depmod", "-b", str(unfinished), modules.name)
    return CACHE / package


def open_vswitch() -> list[Path]:
    """Packages that this machine lacks for Open vSwitch; installed, it would start a service."""
    directory = CACHE / "openvswitch"
    with _filled(directory, "Open vSwitch") as unfinished:
        if unfinished is not None:
            only_fetch = ["-y", "--download-only", "--no-install-recommends", "-o", "Debug::NoLocking=1"]
            there = f"Dir::Cache::archives={unfinished}"
            _apt("install", *only_fetch, "-o", there, "openvswitch-switch", where=unfinished)
    return sorted(directory.glob("*.deb"))


@contextlib.contextmanager
def _filled(directory: Path, what: str) -> Iterator[Path | None]:
    """Another directory to fill, which becomes `directory` if all goes well; None if that is there already."""
    if directory.exists():
        yield None
        return
    print(f"Fetching {what}, once", flush=True)
    unfinished = CACHE / f"unfinished-{directory.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.rename(directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
        raise VmError(f"{command[0]} is missing: this needs Debian, with apt, dpkg and kmod")
    where.mkdir(parents=True, exist_ok=True)
    run = subprocess.run([program, *command[1:]], cwd=where, capture_output=True, text=True)
    if run.returncode != 0:
        said = (run.stderr or run.stdout).strip().splitlines()[-1:] or ["it failed"]
        raise VmError(f"{' '.join(command)}: {said[0]} (sudo apt-get update may help)")
    return run.stdout
